"""The WGMMA kernel: a producer warpgroup that copies, consumer warpgroups that multiply and write.

Written with TVM's PTX operations, one after the other, since no schedule of a tensor expression
says which warp waits for which. It needs the instructions it is made of, so there is no emulation
on a CPU.

    producer    for each step: wait until the stage is empty; copy pixels and weights into it
    consumers   for each step: wait until the stage is full; multiply; call the step before empty
                then the epilogue (`wgmma_epilogue`)

Pixels are gathered by the copy engine: a tensor map in im2col mode walks `rows` output pixels from
a first one on, shifted by the filter tap, and reads zeros in the padding. Weights are packed as the
hardware wants them in shared memory, so that a step's part is one run of bytes.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from intrinsics import wgmma
from schedules.conv.workload import ConvWorkload
from schedules.families.wgmma import epilogue
from schedules.families.wgmma.config import (
    PRODUCER_REGISTERS,
    Plan,
    WgmmaConfig,
    corners,
    exchanges_registers,
    registers,
)

GATHER = "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
GATHER_ROWS = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
COPY = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
#: Keeps the compiler from reading a sum before the instruction that waits for it.
SETTLED = """__forceinline__ __device__ void settled(float& sum) {
  asm volatile("" : "+f"(sum) :: "memory");
}
"""


def im2col(plan: Plan) -> list[int]:
    """What `wgmma.ENCODE_IM2COL` takes after the map and the tensor: sizes (C, W, H, N), strides in
    bytes, the box of first pixels that the walk stays in (lower corner W, H, upper W, H, relative
    to the image), channels and pixels of a copy, steps in pixels (W, H), and the swizzle."""
    w = plan.w
    sizes = [w.c, w.w, w.h, w.n]
    strides = [2 * w.c, 2 * w.c * w.w, 2 * w.c * w.w * w.h]
    box = [plan.depth, plan.config.rows]
    steps = [w.stride[1], w.stride[0]]
    swizzle = wgmma.TENSOR_MAP_SWIZZLE[plan.row_bytes]
    return [*sizes, *strides, *corners(w), *box, *steps, swizzle]


def matrix(plan: Plan) -> list[int]:
    """What `epilogue.ENCODE_TILED` takes, where the gather is a matrix's rows: sizes (C, M),
    stride in bytes, box, steps, and how to lay it out."""
    sizes, box = [plan.w.c, plan.m], [plan.depth, plan.config.rows]
    swizzle = wgmma.TENSOR_MAP_SWIZZLE[plan.row_bytes]
    return [*sizes, 2 * plan.w.c, *box, 1, 1, 0, swizzle, wgmma.TENSOR_MAP_PROMOTION, 0]


def first_step(plan: Plan, rank: Any) -> Any:
    """Where the block of that rank in its cluster begins in the reduction, and the one before it
    ends."""
    return rank * plan.steps // plan.config.split


def described(plan: Plan, base: Any, at: Any) -> Any:
    """The matrix descriptor of what begins `at` bytes past `base` in shared memory."""
    address = T.shift_right(base + T.Cast("uint32", at), T.uint32(4))
    constant = wgmma.descriptor(plan.row_bytes)
    signed = constant - (1 << 64) if constant >> 63 else constant  # as TVM keeps integers
    return T.Cast("uint64", T.bitwise_or(T.int64(signed), T.Cast("int64", address)))


@T.inline
def initialise(plan, barriers, thread):
    if thread == 0:
        for stage in T.unroll(plan.config.stages):
            T.ptx.mbarrier.init.shared.b64(barriers.ptr_to([stage]), T.uint32(1))
            T.ptx.mbarrier.init.shared.b64(
                barriers.ptr_to([plan.config.stages + stage]), T.uint32(plan.config.warpgroups)
            )
        for piece in T.unroll(2 * plan.config.warpgroups):
            T.ptx.mbarrier.init.shared.b64(
                barriers.ptr_to([2 * plan.config.stages + piece]), T.uint32(1)
            )
        T.ptx.fence.proxy.async_.shared__cta()
    T.cuda.cta_sync()


@T.inline
def producer_registers(config):
    if exchanges_registers(config):
        T.ptx["setmaxnreg.dec.sync.aligned.u32"](PRODUCER_REGISTERS)


@T.inline
def consumer_registers(config):
    if exchanges_registers(config):
        T.ptx["setmaxnreg.inc.sync.aligned.u32"](registers(config))


@T.inline
def produce(plan, x_map, weight, shared, barriers, block, rank):
    """One thread: keeps the stages full."""
    w = T.meta_var(plan.w)
    config = T.meta_var(plan.config)
    stage: T.int32 = 0
    phase: T.int32 = 1
    tile: T.int32 = block // config.split
    while tile < plan.tiles:
        m: T.int32 = tile // plan.tiles_k * config.rows
        k: T.int32 = tile % plan.tiles_k * config.columns
        image: T.int32 = m // (w.p * w.q)
        row: T.int32 = m // w.q % w.p * w.stride[0] - w.padding[0]
        column: T.int32 = m % w.q * w.stride[1] - w.padding[1]
        columns: T.int32 = T.min(config.columns, plan.k_packed - k)
        first: T.int32 = first_step(plan, rank)
        # Counted, not divided: small tiles have but a few hundred clocks for a step.
        chunk: T.int32 = first % plan.chunks
        right: T.int32 = first // plan.chunks % w.s
        down: T.int32 = first // plan.chunks // w.s
        for i in T.serial(first_step(plan, rank + 1) - first):
            full = T.meta_var(barriers.ptr_to([stage]))
            T.cuda.mbarrier_wait(barriers.ptr_to([config.stages + stage]), phase)
            T.ptx.mbarrier.arrive.expect_tx.shared.b64(
                full, T.Cast("uint32", plan.a_bytes + columns * plan.row_bytes)
            )
            if plan.flat:
                T.ptx[GATHER_ROWS](
                    shared.ptr_to([stage * plan.a_bytes]), T.address_of(x_map),
                    chunk * plan.depth, m, full,
                )  # fmt: skip
            else:
                T.ptx[GATHER](
                    shared.ptr_to([stage * plan.a_bytes]), T.address_of(x_map),
                    chunk * plan.depth, column, row, image, full,
                    T.Cast("uint16", right * w.dilation[1]),
                    T.Cast("uint16", down * w.dilation[0]),
                )  # fmt: skip
            T.ptx[COPY](
                shared.ptr_to([plan.b_at + stage * plan.b_bytes]),
                weight.ptr_to([0, first + i, k, 0]),
                T.Cast("uint32", columns * plan.row_bytes), full,
            )  # fmt: skip
            stage = stage + 1
            if stage == config.stages:
                stage = 0
                phase = phase ^ 1
            chunk = chunk + 1
            if chunk == plan.chunks:
                chunk = 0
                right = right + 1
                if right == w.s:
                    right = 0
                    down = down + 1
        tile = tile + plan.grid // config.split


@T.inline
def multiply(plan, shared, group, stage, sums, i):
    """Starts the products of one step."""
    config = T.meta_var(plan.config)
    each = T.meta_var(config.columns // 2)
    base: T.uint32 = T.cuda.cvta_generic_to_shared(shared.ptr_to([0]))
    T.ptx.wgmma.fence.sync.aligned()
    for inner in T.unroll(plan.row_bytes // wgmma.K_BYTES):
        for fragment in T.unroll(config.fragments):
            a = T.meta_var(
                stage * plan.a_bytes
                + (group * config.fragments + fragment) * wgmma.M * plan.row_bytes
                + inner * wgmma.K_BYTES
            )
            b = T.meta_var(plan.b_at + stage * plan.b_bytes + inner * wgmma.K_BYTES)
            T.ptx[plan.instruction.ptx](
                *[sums[fragment * each + j] for j in range(each)],
                described(plan, base, a),
                described(plan, base, b),
                T.bool(i + inner > 0), 1, 1, 0, 0,
            )  # fmt: skip
    T.ptx.wgmma.commit_group.sync.aligned()


@T.inline
def release(plan, barriers, thread, stage):
    """Calls a stage empty."""
    if thread == 0:
        T.ptx.mbarrier.arrive.shared.b64(barriers.ptr_to([plan.config.stages + stage]), T.uint32(1))


@T.inline
def consume(
    plan, shared, barriers, block, rank, group, thread,
    bias, slope, residual, residual_map, y, y_map,
):  # fmt: skip
    """A warpgroup: multiplies step after step into registers, then writes."""
    config = T.meta_var(plan.config)
    sums = T.alloc_local([config.sums], "float32")
    stage: T.int32 = 0
    before: T.int32 = 0
    phase: T.int32 = 0
    tile: T.int32 = block // config.split
    buffer: T.int32 = 0
    arrived: T.int32 = 0
    while tile < plan.tiles:
        m: T.int32 = tile // plan.tiles_k * config.rows + group * config.fragments * wgmma.M
        k: T.int32 = tile % plan.tiles_k * config.columns
        epilogue.begin(plan, shared, barriers, group, thread, buffer, m, k, residual_map)
        first: T.int32 = first_step(plan, rank)
        for i in T.serial(first_step(plan, rank + 1) - first):
            T.cuda.mbarrier_wait(barriers.ptr_to([stage]), phase)
            multiply(plan, shared, group, stage, sums, i)
            T.ptx.wgmma.wait_group.sync.aligned(1)
            if i > 0:
                release(plan, barriers, thread, before)
            before = stage
            stage = stage + 1
            if stage == config.stages:
                stage = 0
                phase = phase ^ 1
        T.ptx.wgmma.wait_group.sync.aligned(0)
        for i in T.unroll(config.sums):
            T.evaluate(T.cuda.func_call("settled", sums[i], source_code=SETTLED))
        release(plan, barriers, thread, before)
        if plan.clustered:
            epilogue.write_together(
                plan, shared, rank, group, thread, sums, m, k, bias, slope, residual, y
            )
        else:
            epilogue.write_pieces(
                plan, shared, barriers, group, thread, buffer, arrived, sums, m, k, bias, slope,
                residual_map, y_map,
            )  # fmt: skip
        tile = tile + plan.grid // config.split
    epilogue.end(plan, thread)


def _function(plan: Plan) -> Any:
    """The kernel with every operand that there can be."""
    w, config = plan.w, plan.config
    channels = (w.k,)
    residual_shape = w.residual_shape if w.epilogue.residual else (1,)

    @T.prim_func
    def main(
        x: T.Buffer(w.in_shape, "float16"),
        weight: T.Buffer(plan.weight_shape, "float16"),
        bias: T.Buffer(channels, "float32"),
        slope: T.Buffer(channels, "float32"),
        residual: T.Buffer(residual_shape, "float16"),
        y: T.Buffer(w.buffer_shape, w.epilogue.out_dtype),
    ):
        x_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        if plan.flat:
            T.call_packed(epilogue.ENCODE_TILED, x_map, "float16", 2, x.data, *matrix(plan))
        else:
            T.call_packed(wgmma.ENCODE_IM2COL, x_map, x.data, *im2col(plan))
        y_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        residual_map: T.let[T.handle("tensormap")] = T.tvm_stack_alloca("tensormap", 1)
        epilogue.encode(plan, y_map, y, residual_map, residual)
        T.device_entry()
        block = T.cta_id([plan.grid])
        rank = T.cta_id_in_cluster([config.split])
        thread = T.thread_id([config.threads])
        T.attr({"tirx.launch_bounds_min_blocks_per_sm": config.resident})
        # Named for its kind: in one module, all kernels that name it alike must type it alike.
        wgmma_shared = T.alloc_buffer([plan.shared_bytes], "uint8", scope="shared.dyn")
        barriers = T.decl_buffer(
            [plan.barriers], "uint64", data=wgmma_shared.data, elem_offset=plan.barriers_at // 8,
            scope="shared.dyn",
        )  # fmt: skip
        group: T.int32 = thread // wgmma.WARPGROUP
        initialise(plan, barriers, thread)
        if group == config.warpgroups:
            producer_registers(config)
            if thread == config.warpgroups * wgmma.WARPGROUP:
                produce(plan, x_map, weight, wgmma_shared, barriers, block, rank)
        else:
            consumer_registers(config)
            consume(
                plan, wgmma_shared, barriers, block, rank, group, thread % wgmma.WARPGROUP,
                bias, slope, residual, residual_map, y, y_map,
            )  # fmt: skip

    return main


def kernel(w: ConvWorkload, config: WgmmaConfig) -> tirx.PrimFunc:
    """``(x, weight[, bias][, slope][, residual]) -> y``; weight as `wgmma.pack` gives it, the rest
    as in `compute.Operands`."""
    plan = Plan(w, config)
    everything = _function(plan)
    activation = w.epilogue.activation
    used = (True, True, w.epilogue.bias, activation.kind == "prelu", w.epilogue.residual, True)
    params = [param for param, needed in zip(everything.params, used, strict=True) if needed]
    return tirx.PrimFunc(params, everything.body, everything.ret_type, everything.attrs)
