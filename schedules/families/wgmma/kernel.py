"""The WGMMA kernel: a producer that copies, consumer warpgroups that multiply and store.

    producer    for each step: wait until the stage is empty; copy pixels and weights into it
    consumers   for each step: wait until the stage is full; multiply its pixels by the `gate`, if
                there is one; multiply; release the stage before
                then the epilogue (`tensor_store`, or `cluster_store` where blocks share a tile)

Pixels are gathered by the copy engine: a tensor map in im2col mode walks `rows` output pixels from
a first one on, moved by the filter tap, and reads zeros in the padding. Weights are packed as the
hardware wants them in shared memory, so that a step's part is one run of bytes.

A stage, and what one step multiplies of it (two warpgroups, two fragments each):

        pixels (rows, depth)                    weights (columns, depth)
        +-----------------------+               +-----------------------+
        | warpgroup 0  frag. 0  | 64 rows       |                       |
        |              frag. 1  | 64 rows       |                       | columns
        | warpgroup 1  frag. 0  | 64 rows       |                       |
        |              frag. 1  | 64 rows       +-----------------------+
        +-----------------------+
          inner 0 | inner 1 | ...                 inner 0 | inner 1 | ...     32 bytes each

An instruction multiplies one fragment by all columns, over one `inner` of k.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes, wgmma
from schedules.conv.workload import ConvWorkload
from schedules.families.wgmma import tensor_maps
from schedules.families.wgmma.adjacent_store import AdjacentStore
from schedules.families.wgmma.block import Block
from schedules.families.wgmma.cluster_store import ClusterStore
from schedules.families.wgmma.config import PRODUCER_REGISTERS, WgmmaConfig
from schedules.families.wgmma.gate import Gate
from schedules.families.wgmma.plan import Plan
from schedules.families.wgmma.tensor_store import TensorStore
from schedules.machine.hardware import Hardware
from schedules.threads import ptx
from schedules.threads.barrier_pipeline import BarrierPipeline, Consumer
from schedules.threads.control import Index, either, grid, serial, unrolled, when
from schedules.threads.kernel import Kernel
from schedules.threads.launch import Launch
from schedules.threads.registers import Registers, Variable, keep
from schedules.threads.shared_memory import SharedMemory
from schedules.threads.tensor_map import tensor_map


def kernel(w: ConvWorkload, config: WgmmaConfig, hardware: Hardware) -> tirx.PrimFunc:
    """Returns the kernel, with the operands of `Plan.signature`."""
    plan = Plan(w, config)
    launch = Launch(plan.grid(hardware), config.threads, config.split, config.resident)
    with Kernel(plan.signature) as function:
        maps = _encode(plan, function)
        with function.launch(launch) as thread:
            # Named for its kind: in one module, kernels that name it alike must type it alike.
            shared = SharedMemory(plan.memory, "wgmma_shared")
            pipeline = BarrierPipeline(shared, config.stages, config.warpgroups)
            group = keep("group", thread.warpgroup)
            block = Block(plan, launch, function, maps, shared, pipeline, thread, group)
            _initialise(block)
            with either(group == config.warpgroups) as (producer, consumers):
                with producer:
                    if config.exchanges_registers:
                        ptx.set_registers(PRODUCER_REGISTERS, more=False)
                    with when(thread.number == config.warpgroups * wgmma.WARPGROUP):
                        _produce(block)
                with consumers:
                    if config.exchanges_registers:
                        ptx.set_registers(config.registers, more=True)
                    _consume(block)
    return function.function


def _encode(plan: Plan, operands: Kernel) -> dict[str, Expr]:
    """On the host: the tensor maps of those operands that the copy engine loads or stores."""
    views = {"x": tensor_maps.pixels(plan)}
    if not plan.clustered:
        views["y"] = tensor_maps.output(plan)
        if plan.w.epilogue.residual:
            views["residual"] = tensor_maps.residual(plan)
    maps = {name: tensor_map(f"{name}_map") for name in views}
    for name, view in views.items():
        view.encode(maps[name], operands[name])
    return maps


def _initialise(block: Block) -> None:
    """Prepares all barriers of the block."""
    residual = block.shared.array("residual")
    with when(block.thread.number == 0):
        block.pipeline.initialise()
        with grid(block.plan.config.warpgroups, block.plan.config.buffers) as index:
            ptx.mbarrier_init(residual.pointer(*index), 1)
        ptx.fence_proxy()
    ptx.block_sync()


# ------------------------------------------------------------------ producer


def _produce(block: Block) -> None:
    """One thread: keeps the stages full."""
    plan, w = block.plan, block.plan.w
    producer = block.pipeline.producer()
    with block.tiles().each() as (first_row, first_column):
        m, k = keep("m", first_row), keep("k", first_column)
        image = keep("image", m // (w.p * w.q))
        row = keep("row", m // w.q % w.p * w.stride[0] - w.padding[0])
        column = keep("column", m % w.q * w.stride[1] - w.padding[1])
        columns = keep("columns", T.min(plan.config.columns, plan.k_packed - k))
        first = block.first_step()
        tap = _Tap(plan, first)
        with serial(block.steps(first)) as i:
            producer.acquire(plan.pixel_bytes + columns * plan.row_bytes)
            pixels = block.shared.pointer("pixels", producer.stage)
            if plan.flat:
                at: tuple[Expr, ...] = (tap.channel, m)
                ptx.tensor_load(pixels, block.maps["x"], at, producer.full)
            else:
                at = (tap.channel, column, row, image)
                ptx.tensor_load_im2col(pixels, block.maps["x"], at, producer.full, tap.offset)
            ptx.bulk_copy(
                block.shared.pointer("weights", producer.stage),
                T.address_of(block.operands["weight"][0, first + i, k, 0]),
                T.Cast("uint32", columns * plan.row_bytes),
                producer.full,
            )
            producer.commit()
            tap.advance()


class _Tap:
    """The filter tap and the channels of a step: counted, not divided, since small tiles have but
    a few hundred clocks for a step."""

    def __init__(self, plan: Plan, step: Expr) -> None:
        self.plan, s = plan, plan.w.s
        self.chunk = Variable("chunk", step % plan.chunks)
        self.right = Variable("right", step // plan.chunks % s)
        self.down = Variable("down", step // plan.chunks // s)

    @property
    def channel(self) -> Expr:
        """First channel of the step."""
        return self.chunk.value * self.plan.depth

    @property
    def offset(self) -> tuple[Expr, Expr]:
        """Pixels (W, H) from the output's first tap."""
        dilation = self.plan.w.dilation
        return self.right.value * dilation[1], self.down.value * dilation[0]

    def advance(self) -> None:
        """On to the next step: chunks innermost, then taps of a row."""
        self.chunk.set(self.chunk.value + 1)
        with when(self.chunk.value == self.plan.chunks):
            self.chunk.set(0)
            self.right.set(self.right.value + 1)
            with when(self.right.value == self.plan.w.s):
                self.right.set(0)
                self.down.set(self.down.value + 1)


# ------------------------------------------------------------------ consumers


def _consume(block: Block) -> None:
    """A warpgroup: multiplies step after step into registers, then stores."""
    plan, config = block.plan, block.plan.config
    accumulators = Registers.array(
        "accumulators", (config.accumulators,), plan.w.precision.accumulator
    )
    consumer = block.pipeline.consumer(block.lane)
    stores = AdjacentStore if plan.adjacent else TensorStore
    tiles = block.tiles()
    store = ClusterStore(block) if plan.clustered else stores(block, tiles)
    integers = dtypes.get(plan.w.precision.accumulator).integer
    registers = accumulators.view("uint32") if integers else accumulators
    gate = Gate(block) if plan.w.gate else None
    store.begin()
    with tiles.each() as (first_row, first_column):
        m = keep("m", first_row + block.group * config.group_rows)
        k = keep("k", first_column)
        store.begin_tile()
        first = block.first_step()
        with serial(block.steps(first)) as i:
            if gate is not None:
                gate.load(m, first + i)
            consumer.wait()
            if gate is not None:
                gate.apply(consumer.stage)
            _multiply(block, consumer, registers, i)
            ptx.wgmma_wait(1)
            with when(i > 0):
                consumer.release()
            consumer.advance()
        ptx.wgmma_wait(0)
        with unrolled(config.accumulators) as i:
            ptx.wgmma_settle(accumulators[i])
        consumer.release()
        store.store(accumulators, m, k)
    store.end()


def _multiply(block: Block, consumer: Consumer, accumulators: Registers, i: Expr) -> None:
    """Starts the products of step i; the first one overwrites the accumulators. Integers are
    given as ``uint32``."""
    plan, config = block.plan, block.plan.config
    pixels, weights = plan.memory["pixels"], plan.memory["weights"]
    each = config.columns // 2
    base = keep("base", ptx.shared_address(block.shared.pointer("pixels", 0)))
    ptx.wgmma_fence()
    with grid(plan.row_bytes // wgmma.K_BYTES, config.fragments) as (inner, fragment):
        row = (block.group * config.fragments + fragment) * wgmma.M
        a = pixels.at(consumer.stage) + row * plan.row_bytes + inner * wgmma.K_BYTES
        b = weights.at(consumer.stage) + inner * wgmma.K_BYTES
        ptx.wgmma(
            plan.instruction,
            [accumulators[fragment * each + j] for j in range(each)],
            _descriptor(plan, base, a),
            _descriptor(plan, base, b),
            i + inner > 0,
        )
    ptx.wgmma_commit()


def _descriptor(plan: Plan, base: Expr, at: Index) -> Expr:
    """The matrix descriptor of what begins `at` bytes past `base` in shared memory."""
    address = T.shift_right(base + T.Cast("uint32", at), T.uint32(4))
    constant = wgmma.descriptor(plan.row_bytes)
    signed = constant - (1 << 64) if constant >> 63 else constant  # as TVM keeps integers
    return T.Cast("uint64", T.bitwise_or(T.int64(signed), T.Cast("int64", address)))
