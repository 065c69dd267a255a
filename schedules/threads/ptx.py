"""The PTX instructions that kernels use, as functions; each names its section of the PTX ISA
(https://docs.nvidia.com/cuda/parallel-thread-execution/).

A pointer is generic (`SharedMemory.pointer`, `address_of`); an address is 32 bits in the shared
window (`SharedMemory.address`). Where both can stand, the argument is called `shared`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from intrinsics import dtypes
from intrinsics.mma_sync import LDMATRIX, LDMATRIX_TRANSPOSED, MOVMATRIX_TRANSPOSED, STMATRIX
from intrinsics.record import TensorIntrinsic
from schedules.threads.control import Index
from schedules.threads.launch import WARP, WARPGROUP
from schedules.threads.shared_memory import SCOPE


def emit(instruction: str, *operands: Index) -> None:
    """Emits one instruction by its name in PTX."""
    T.evaluate(T.ptx[instruction](*operands))


def offset(address: Expr, bytes: int) -> Expr:
    """An address with a constant offset, which costs no register."""
    return T.ptx.addr(address, bytes)


# ------------------------------------------------------------------ within a warp


def ldmatrix(registers: Sequence[Expr], shared: Expr, transposed: bool = False) -> None:
    """Loads four 8 x 8 matrices of 16-bit elements; "ldmatrix".

    Lane 8 i + j names the 16 bytes of row j of matrix i. Lane l gets of each matrix the elements
    2 (l % 4) and the next of row l // 4, or of column l // 4 where it is transposed.
    """
    emit(LDMATRIX_TRANSPOSED if transposed else LDMATRIX, *registers, shared)


def stmatrix(shared: Expr, registers: Sequence[Expr]) -> None:
    """Stores four 8 x 8 matrices of 16-bit elements, as `ldmatrix` loads them; "stmatrix"."""
    emit(STMATRIX, shared, *registers)


def movmatrix(target: Expr, source: Expr) -> None:
    """Transposes an 8 x 8 matrix of 16-bit elements, one register of each lane; "movmatrix"."""
    emit(MOVMATRIX_TRANSPOSED, target, source)


def mma(
    instruction: TensorIntrinsic,
    accumulators: Sequence[Expr],
    a: Sequence[Expr],
    b: Sequence[Expr],
    before: Sequence[Expr] | None = None,
) -> None:
    """accumulators = a b + before, which is the accumulators where none is given; "mma". In each,
    the registers of the operand's `intrinsics.mma_sync.Fragment`, in order; those of integers are
    ``uint32``."""
    emit(instruction.ptx, *accumulators, *a, *b, *(accumulators if before is None else before))


def shuffle(target: Expr, source: Expr, lane: Expr) -> None:
    """Gets the `source` of another lane of the warp; "shfl.sync"."""
    whole = T.uint32(WARP - 1), T.uint32(0xFFFFFFFF)
    emit("shfl_sync.idx.b32", target, source, lane.astype("uint32"), *whole)


def shuffle_xor(value: Expr, mask: int) -> Expr:
    """The `value` of the lane whose number differs in the bits of `mask`; "shfl.sync"."""
    return T.tvm_warp_shuffle_xor(T.uint32(0xFFFFFFFF), value, mask, WARP, WARP)


def warp_sync() -> None:
    """Makes the threads of a warp wait for each other; "bar.warp.sync". The compiler moves no
    load across it."""
    T.evaluate(T.cuda.warp_sync())


def maximum_of_pairs(target: Expr, other: Expr, dtype: str) -> None:
    """The larger elements of two packed pairs, into `target`; NaN where one is; "max". dtype: of
    the elements, of 16 bits."""
    emit(f"max.NaN.{dtypes.get(dtype).ptx}x2", target, target, other)


def product_of_pairs(target: Expr, other: Expr, dtype: str) -> None:
    """The products of two packed pairs, each rounded once, into `target`; "mul". dtype: of the
    elements, of 16 bits; bfloat16 from sm_90 on."""
    emit(f"mul.rn.{dtypes.get(dtype).ptx}x2", target, target, other)


def store_shared(pointer: Expr, registers: Sequence[Expr]) -> None:
    """Stores 1, 2 or 4 registers of 32 bits, aligned to as many bytes; "st"."""
    vector = f".v{len(registers)}" if len(registers) > 1 else ""
    emit(f"st.shared{vector}.b32", pointer, *registers)


# ------------------------------------------------------------------ cp.async


def cp_async(
    shared: Expr,
    source: Expr,
    bytes: int,
    *,
    count: Expr | None = None,
    skip: Expr | None = None,
    prefetch: bool = False,
) -> None:
    """Copies 4, 8 or 16 bytes from memory to shared memory; "cp.async".

    count: bytes to read, zeros follow. skip: a condition, where it holds all are zeros. prefetch:
    128 bytes into the L2 cache.
    """
    kind = "cg" if bytes == 16 else "ca"
    extra: list[Expr] = [] if count is None else [count]
    extra += [] if skip is None else [T.ptx.pred(skip)]
    level = ".L2::128B" if prefetch else ""
    emit(f"cp.async.{kind}.shared.global{level}", shared, source, bytes, *extra)


def cp_async_commit() -> None:
    """Closes a group of copies; "cp.async.commit_group"."""
    emit("cp.async.commit_group")


def cp_async_wait(pending: int) -> None:
    """Waits until at most `pending` of the thread's groups are under way; "cp.async.wait_group"."""
    emit("cp.async.wait_group", pending)


# ------------------------------------------------------------------ the copy engine


def bulk_copy(shared: Expr, source: Expr, bytes: Expr, barrier: Expr) -> None:
    """Copies a run of bytes from memory to shared memory, and counts them on an mbarrier;
    "cp.async.bulk"."""
    name = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
    emit(name, shared, source, bytes, barrier)


def tensor_load(
    shared: Expr, tensor_map: Expr, coordinates: Sequence[Index], barrier: Expr
) -> None:
    """Copies the box at `coordinates` (innermost first) of a tensor to shared memory, and counts
    its bytes on an mbarrier; "cp.async.bulk.tensor", mode ``tile``."""
    name = f"cp.async.bulk.tensor.{len(coordinates)}d.shared::cluster.global.tile"
    name += ".mbarrier::complete_tx::bytes"
    emit(name, shared, T.address_of(tensor_map), *coordinates, barrier)


def tensor_load_im2col(
    shared: Expr,
    tensor_map: Expr,
    coordinates: Sequence[Index],
    barrier: Expr,
    offsets: Sequence[Expr],
) -> None:
    """Copies pixels of a tensor of four dimensions from the one at `coordinates` (C, W, H, N) on,
    each moved by `offsets` (W, H); "cp.async.bulk.tensor", mode ``im2col``."""
    name = "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
    moved = [T.Cast("uint16", by) for by in offsets]
    emit(name, shared, T.address_of(tensor_map), *coordinates, barrier, *moved)


def tensor_store(tensor_map: Expr, coordinates: Sequence[Index], shared: Expr) -> None:
    """Copies a box from shared memory to a tensor, in a bulk group; "cp.async.bulk.tensor"."""
    name = f"cp.async.bulk.tensor.{len(coordinates)}d.global.shared::cta.tile.bulk_group"
    emit(name, T.address_of(tensor_map), *coordinates, shared)


def bulk_commit() -> None:
    """Closes a bulk group; "cp.async.bulk.commit_group"."""
    emit("cp.async.bulk.commit_group")


def bulk_wait(pending: int) -> None:
    """Waits until at most `pending` bulk groups of the thread are under way;
    "cp.async.bulk.wait_group"."""
    emit("cp.async.bulk.wait_group", pending)


def bulk_wait_read(pending: int) -> None:
    """As `bulk_wait`, until their shared memory has been read; the writes may be under way."""
    emit("cp.async.bulk.wait_group.read", pending)


def fence_proxy() -> None:
    """Shows what the thread has written to shared memory to the copy engine; "membar/fence",
    proxy fence."""
    emit("fence.proxy.async.shared::cta")


# ------------------------------------------------------------------ mbarrier


def mbarrier_init(barrier: Expr, arrivals: int) -> None:
    """Prepares a barrier whose phase ends after so many arrivals; "mbarrier.init"."""
    emit("mbarrier.init.shared.b64", barrier, T.uint32(arrivals))


def mbarrier_arrive(barrier: Expr) -> None:
    """Arrives once; "mbarrier.arrive"."""
    emit("mbarrier.arrive.shared.b64", barrier, T.uint32(1))


def mbarrier_arrive_expect(barrier: Expr, bytes: Expr) -> None:
    """Arrives once, and keeps the phase open until so many bytes have been copied;
    "mbarrier.arrive.expect_tx"."""
    emit("mbarrier.arrive.expect_tx.shared.b64", barrier, bytes)


def mbarrier_wait(barrier: Expr, parity: Expr) -> None:
    """Waits for the end of the phase of that parity; "mbarrier.try_wait.parity"."""
    T.evaluate(T.cuda.mbarrier_wait(barrier, parity))


# ------------------------------------------------------------------ warpgroups, blocks, clusters

#: Keeps the compiler from reading an accumulator before the instruction that waits for it: by its
#: dtype the name of a function, and the function.
_SETTLED = {
    "float32": (
        "settled",
        """__forceinline__ __device__ void settled(float& sum) {
  asm volatile("" : "+f"(sum) :: "memory");
}
""",
    ),
    "int32": (
        "settled_integer",
        """__forceinline__ __device__ void settled_integer(int& sum) {
  asm volatile("" : "+r"(sum) :: "memory");
}
""",
    ),
}


#: n of the wgmma of integers that TVM's table of PTX lacks, and ptxas takes.
UNKNOWN_TO_TVM = (240, 256)


def wgmma(
    instruction: TensorIntrinsic, accumulators: Sequence[Expr], a: Expr, b: Expr, add: Expr
) -> None:
    """accumulators = a b, to which where `add` holds they are added; operands by descriptor, both
    K-major; "wgmma.mma_async". Registers of integers are ``uint32``."""
    if not dtypes.get(instruction.accumulator_dtype).integer:
        # Floating-point operands can be negated and transposed.
        emit(instruction.ptx, *accumulators, a, b, add, 1, 1, 0, 0)
    elif instruction.n in UNKNOWN_TO_TVM:
        name, source = _integer_wgmma(instruction)
        T.evaluate(T.cuda.func_call(name, *accumulators, a, b, add, source_code=source))
    else:
        emit(instruction.ptx, *accumulators, a, b, add)


def _integer_wgmma(instruction: TensorIntrinsic) -> tuple[str, str]:
    """A CUDA function of the registers, both descriptors and the condition: name and text."""
    count, name = instruction.accumulator_registers(), instruction.name
    declared = ", ".join(f"uint32_t& d{i}" for i in range(count))
    registers = ", ".join(f"%{i}" for i in range(count))
    tied = ", ".join(f'"+r"(d{i})' for i in range(count))
    # A predicate of the condition, as TVM writes it.
    add = f"{{ .reg .pred p; setp.ne.b32 p, %{count + 2}, 0; "
    multiply = f"{instruction.ptx} {{{registers}}}, %{count}, %{count + 1}, p; }}"
    lines = (
        f"__forceinline__ __device__ void {name}(",
        f"    {declared}, uint64_t a_desc, uint64_t b_desc, uint32_t add) {{",
        f'  asm volatile("{add}"',
        f'    "{multiply}"',
        f'    : {tied} : "l"(a_desc), "l"(b_desc), "r"(add));',
        "}",
    )
    return name, "\n".join(lines) + "\n"


def wgmma_fence() -> None:
    """Orders what was done to registers and shared memory before the products that follow;
    "wgmma.fence"."""
    emit("wgmma.fence.sync.aligned")


def wgmma_commit() -> None:
    """Closes a group of products; "wgmma.commit_group"."""
    emit("wgmma.commit_group.sync.aligned")


def wgmma_wait(pending: int) -> None:
    """Waits until at most `pending` groups of products are under way; "wgmma.wait_group"."""
    emit("wgmma.wait_group.sync.aligned", pending)


def wgmma_settle(accumulator: Expr) -> None:
    """After `wgmma_wait`, for each accumulator: the compiler reads it no earlier."""
    name, source = _SETTLED[str(accumulator.ty.dtype)]
    T.evaluate(T.cuda.func_call(name, accumulator, source_code=source))


def set_registers(count: int, more: bool) -> None:
    """Changes the registers of a warpgroup's threads, to more or to fewer; "setmaxnreg"."""
    emit(f"setmaxnreg.{'inc' if more else 'dec'}.sync.aligned.u32", count)


def block_sync() -> None:
    """Makes all threads of the block wait for each other; "bar"."""
    T.evaluate(T.cuda.cta_sync())


def shared_sync() -> None:
    """As `block_sync`, where TVM plans barriers (`Kernel`): it knows this one, and adds none."""
    T.evaluate(T.tvm_storage_sync(SCOPE))


def barrier_sync(barrier: Index, threads: int) -> None:
    """Makes so many threads wait for each other at one of the 16 barriers of the block, of which 0
    is `block_sync`'s; "bar"."""
    number = T.uint32(barrier) if isinstance(barrier, int) else T.Cast("uint32", barrier)
    emit("bar.sync", number, T.uint32(threads))


def warpgroup_sync(barrier: Index) -> None:
    """Makes the threads of a warpgroup wait for each other; "bar"."""
    barrier_sync(barrier, WARPGROUP)


def cluster_sync() -> None:
    """Makes all threads of the cluster wait for each other; "barrier.cluster"."""
    emit("barrier.cluster.arrive.aligned")
    emit("barrier.cluster.wait.aligned")


def shared_address(pointer: Expr) -> Expr:
    """The 32-bit address of what a generic pointer points to in shared memory; "cvta"."""
    return T.cuda.cvta_generic_to_shared(pointer)


def map_to_rank(target: Expr, address: Expr, rank: Expr) -> None:
    """The address in the shared memory of another block of the cluster; "mapa"."""
    emit("mapa.shared::cluster.u32", target, address, rank)


def load_shared(registers: Sequence[Expr], address: Expr, cluster: bool = False) -> None:
    """Loads 1, 2 or 4 registers, all ``float32`` or ``uint32``, from shared memory, of any block of
    a cluster where `cluster`; "ld"."""
    space = "shared::cluster" if cluster else "shared"
    vector = f".v{len(registers)}" if len(registers) > 1 else ""
    kind = "f32" if str(registers[0].ty.dtype) == dtypes.FP32.name else "b32"
    emit(f"ld.{space}{vector}.{kind}", *registers, address)
