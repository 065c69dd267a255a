"""The HMMA instructions of one ``wmma.mma`` m16n16k16 on Volta.

Four *sets* cover k, four at a time. A set is four *steps* with fp32 accumulators and two with fp16
ones. In a step every threadgroup computes a piece of its 4 x 8 of the result, 2 x 4 or 4 x 4. It
reads its own rows of A, and four columns of B that one threadgroup of its octet holds for both.

Source: Raihan, Goli, Aamodt (ISPASS 2019, arXiv 1811.08309), figure 10, tables II and III, and the
disassembled listings, whose registers are used here. The paper writes pairs of registers as <R8,
R7>; SASS names the lower of an aligned pair, so R8 is <R8, R9> here. The listing with fp32
accumulators is of a column-major A and a row-major B; the one with fp16 marks both ``.T``, whose
meaning is unknown. Here ``.ROW`` and ``.COL`` are what the program was made for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intrinsics.volta.fragments import (
    ACCUMULATOR_F16,
    ACCUMULATOR_F32,
    LANES,
    LAYOUTS,
    OCTETS,
    A,
    B,
    FragmentError,
    Holders,
    Operand,
    holders,
)

Array = NDArray[Any]

SETS = 4
#: Products in one sum, and k of one set.
K = 4
#: Registers of each lane of the simulated warp; the listings name none above R25.
REGISTERS = 26


#: The simulator's only arithmetic: ``fused(a, b, c)`` is c plus four products. a and b are float16
#: (..., 4). c is float32 or float16 and has the axes before the 4 that a and b broadcast to. The
#: result has the shape and dtype of c.
Fused = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Form:
    """The HMMA form for one accumulator dtype. Registers are those of the listings."""

    name: str
    accumulator: Operand
    steps: int
    #: Rows that one step computes of a threadgroup's four, in four columns.
    rows: int
    #: First register of each pair: A's and B's by set, the accumulator's by step.
    a: tuple[int, ...]
    b: tuple[int, ...]
    d: tuple[int, ...]


F32 = Form("F32", ACCUMULATOR_F32, 4, 2, (24, 20, 14, 16), (22, 18, 12, 2), (8, 10, 4, 6))
F16 = Form("F16", ACCUMULATOR_F16, 2, 4, (22, 16, 18, 2), (12, 14, 8, 10), (4, 6))


@dataclass(frozen=True)
class Instruction:
    """One HMMA.884. ``set`` is 1 to 4, ``step`` from 0; d, a, b and c are first registers
    of pairs.

    Raises ``ValueError`` for a set, step, register or layout out of range.
    """

    form: Form
    set: int
    step: int
    d: int
    a: int
    b: int
    c: int
    a_layout: str
    b_layout: str

    def __post_init__(self) -> None:
        pairs = (self.d, self.a, self.b, self.c)
        problems = [
            text
            for failed, text in (
                (self.set not in range(1, SETS + 1), f"sets are 1 to {SETS}"),
                (self.step not in range(self.form.steps), f"steps are 0 to {self.form.steps - 1}"),
                (
                    any(r % 2 or r not in range(REGISTERS) for r in pairs),
                    f"pairs begin at an even register below {REGISTERS}",
                ),
                (
                    self.a_layout not in LAYOUTS or self.b_layout not in LAYOUTS,
                    f"layouts are {LAYOUTS}",
                ),
            )
            if failed
        ]
        if problems:
            raise ValueError(f"{self!r} is not an instruction: " + "; ".join(problems))

    @property
    def k(self) -> range:
        """Columns of A and rows of B that it multiplies."""
        return range(K * (self.set - 1), K * self.set)

    @property
    def rows(self) -> range:
        """Rows that it computes, of the four of a threadgroup."""
        first = self.step * self.form.rows % 4
        return range(first, first + self.form.rows)

    @property
    def columns(self) -> range:
        """Columns that it computes, of the eight of an octet.

        The lower threadgroup holds B's first four, the upper the others.
        """
        first = self.step * self.form.rows // 4 * 4
        return range(first, first + 4)

    def __str__(self) -> str:
        name = f"HMMA.884.{self.form.name}.{self.form.name}.STEP{self.step}"
        a, b = f"R{self.a}.{self.a_layout.upper()}", f"R{self.b}.{self.b_layout.upper()}"
        return f"{name} R{self.d}, {a}, {b}, R{self.c}"


@dataclass(frozen=True)
class Program:
    """The instructions of one WMMA, and the registers that its fragments lie in."""

    form: Form
    a_layout: str
    b_layout: str
    instructions: tuple[Instruction, ...]

    @property
    def a_registers(self) -> list[int]:
        """Registers of A's fragment."""
        return _pairs(self.form.a)

    @property
    def b_registers(self) -> list[int]:
        """Registers of B's fragment."""
        return _pairs(self.form.b)

    @property
    def d_registers(self) -> list[int]:
        """Registers of the accumulator's fragment."""
        return _pairs(self.form.d)


def program(form: Form, a_layout: str = "row", b_layout: str = "col") -> Program:
    """Returns the program for the layouts in memory. Raises ``ValueError`` for an unknown
    layout.
    """
    instructions = tuple(
        Instruction(form, s + 1, step, d, form.a[s], form.b[s], d, a_layout, b_layout)
        for s in range(SETS)
        for step, d in enumerate(form.d)
    )
    return Program(form, a_layout, b_layout, instructions)


PROGRAM_F32 = program(F32)
PROGRAM_F16 = program(F16)


@dataclass(frozen=True)
class State:
    """The registers of a warp, for many tiles: uint32 (..., 32 lanes, 26 registers)."""

    registers: Array

    @classmethod
    def of(cls, program: Program, a: Array, b: Array, c: Array) -> State:
        """Returns a state with fragments from `fragments.load` in the program's registers, others
        zero.

        The tiles' axes broadcast. Raises `FragmentError` for a fragment that is not the program's.
        """
        given = (("A", A, a), ("B", B, b), ("C", program.form.accumulator, c))
        for name, operand, registers in given:
            expected = (LANES, operand.registers)
            if registers.dtype != np.uint32 or registers.shape[-2:] != expected:
                raise FragmentError(
                    f"{name}'s registers are {registers.dtype}{registers.shape}, "
                    f"not uint32(..., {LANES}, {operand.registers})"
                )
        try:
            tiles = np.broadcast_shapes(*(registers.shape[:-2] for _, _, registers in given))
        except ValueError as error:
            raise FragmentError(
                "the tiles of A, B and C do not broadcast", note=str(error)
            ) from None
        inside = np.zeros((REGISTERS, LANES, *tiles), np.uint32)
        state = cls(np.moveaxis(inside, (0, 1), (-1, -2)))
        places = (program.a_registers, program.b_registers, program.d_registers)
        for place, (_, _, registers) in zip(places, given, strict=True):
            state.registers[..., place] = registers
        return state

    def accumulator(self, program: Program) -> Array:
        """Returns the result's fragment, as `fragments.store` takes it."""
        return self.registers[..., program.d_registers]


def step(state: State, instruction: Instruction, fused: Fused) -> State:
    """Returns the state after one instruction; the given one is unchanged."""
    return run(state, (instruction,), fused)


def run(state: State, instructions: Iterable[Instruction], fused: Fused) -> State:
    """Returns the state after several instructions; the given one is unchanged."""
    registers = state.registers.copy(order="K")
    for instruction in instructions:
        _execute(_inside(registers), instruction, fused)
    return State(registers)


def wmma(program: Program, a: Array, b: Array, c: Array, fused: Fused) -> Array:
    """Does a ``wmma.mma`` on fragments. Returns the accumulator's (..., 32, 8 or 4), uint32."""
    state = State.of(program, a, b, c)
    return run(state, program.instructions, fused).accumulator(program)


# ---------------------------------------------------------------- one instruction


@dataclass(frozen=True)
class Wiring:
    """Index arrays of the registers that feed each product.

    a: (octet, threadgroup, row, k). b: (octet, column, k). c and d: (octet, threadgroup, row,
    column).
    """

    a: Holders
    b: Holders
    c: Holders
    d: Holders


@functools.cache
def wiring(instruction: Instruction) -> Wiring:
    """Returns the index arrays of one instruction."""
    octet = np.arange(len(OCTETS))
    first_row = np.array([o.row for o in OCTETS])[:, None, None] + 4 * np.arange(2)[:, None]
    rows = (first_row + np.array(instruction.rows))[..., None]
    columns = np.array([o.column for o in OCTETS])[:, None] + np.array(instruction.columns)
    k = np.array(instruction.k)
    # Two lanes hold each element; take the octet's own: octets o and o + 2 share rows of A,
    # octets 2o and 2o + 1 columns of B.
    a_copy, b_copy = octet[:, None, None, None] // 2, octet[:, None, None] % 2
    a = _at(A, instruction.a_layout, instruction.a, (rows, k, a_copy))
    b = _at(B, instruction.b_layout, instruction.b, (k, columns[..., None], b_copy))
    piece = rows, columns[:, None, None, :], np.intp(0)
    accumulator = instruction.form.accumulator
    c = _at(accumulator, "row", instruction.c, piece)
    d = _at(accumulator, "row", instruction.d, piece)
    return Wiring(a, b, c, d)


def _at(operand: Operand, layout: str, first: int, index: tuple[Any, Any, Any]) -> Holders:
    """Returns the holders of elements (row, column, copy), in the pair that begins at ``first``."""
    all_of = holders(operand, layout)
    return Holders(all_of.lane[index], first + all_of.register[index] % 2, all_of.half[index])


def _execute(registers: Array, instruction: Instruction, fused: Fused) -> None:
    """Does one instruction in place; registers (register, lane, ...)."""
    wires = wiring(instruction)
    a = np.moveaxis(_halves(registers, wires.a), 3, -1)
    b = np.moveaxis(_halves(registers, wires.b), 2, -1)
    packed = instruction.form.accumulator.dtype == "float16"
    c = (_halves if packed else _words)(registers, wires.c)
    d = fused(a[:, :, :, None], b[:, None, None], c)
    bits: Array = d.view(f"u{d.itemsize}").astype(np.uint32, copy=False)
    register, lane = wires.d.register, wires.d.lane
    if packed:
        bits = bits[:, :, :, 0::2] | bits[:, :, :, 1::2] << 16
        register, lane = register[..., 0::2], lane[..., 0::2]
    registers[register, lane] = bits


def _words(registers: Array, at: Holders) -> Array:
    return registers[at.register, at.lane].view(np.float32)


def _halves(registers: Array, at: Holders) -> Array:
    words = registers[at.register, at.lane]
    shift = (16 * at.half).astype(np.uint32).reshape(at.half.shape + (1,) * (registers.ndim - 2))
    return (words >> shift).astype(np.uint16).view(np.float16)


def _pairs(first: tuple[int, ...]) -> list[int]:
    return [register + i for register in first for i in range(2)]


def _inside(registers: Array) -> Array:
    """Returns a view (register, lane, tiles): memory order, so loops over tiles are innermost."""
    return np.moveaxis(registers, (-1, -2), (0, 1))
