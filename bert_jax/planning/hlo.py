"""Parser for the text of a compiled program (HLO), as `jax.stages.Compiled.as_text` returns it.

It keeps what `hlo_costs.py` needs: computations, instructions, shapes and groups of devices. It
reads programs for CPUs, GPUs and TPUs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence

import numpy as np

# Bits of an element.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16}
_BITS |= {"bf16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64}
_BITS |= {"f8e4m3fn": 8, "f8e5m2": 8, "c64": 64, "c128": 128, "token": 0}

_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_SPACE = re.compile(r"S\((\d+)\)")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    r" \{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Array:
    """Shape and type of an array on one device, and the memory that it is in."""

    dimensions: tuple[int, ...]
    bits: int  # of an element
    in_main_memory: bool  # False: in the chip's own memory, such as VMEM

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dimensions)

    @property
    def bytes(self) -> int:
        """Size in bytes, without the padding of tiles."""
        return -(-self.elements * self.bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of the result; several where it is a tuple
    operands: tuple[str, ...]  # names of instructions of the same computation
    attributes: str  # the rest of the line after the operands
    literal: str  # the text between the parentheses
    is_root: bool

    def called(self, attribute: str) -> str:
        """Returns the name of the computation in an attribute such as `calls`; '' for none."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else ""


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program, by name."""

    computations: dict[str, Computation]
    entry: str


def parse_program(text: str) -> Program:
    """Parses the text of a compiled program."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations[header[2]] = {}
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _parse_instruction(match[2], match[3], is_root=bool(match[1]))
            current[instruction.name] = instruction
    return Program(computations, entry)


def _parse_instruction(name: str, line: str, *, is_root: bool) -> Instruction:
    end = _closing(line, 0) + 1 if line.startswith("(") else line.index(" ")
    opening = line.index("(", end)
    closing = _closing(line, opening)
    inside = line[opening + 1 : closing]
    return Instruction(
        name,
        line[end:opening].strip(),
        parse_arrays(line[:end]),
        tuple(_OPERAND.findall(inside)),
        line[closing + 1 :],
        inside,
        is_root,
    )


def _closing(line: str, opening: int) -> int:
    """Returns the index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"no closing parenthesis in {line[:80]!r}")


@functools.lru_cache(maxsize=4096)
def parse_arrays(text: str) -> tuple[Array, ...]:
    """Parses a type such as `f32[8,128]{1,0}`, or a tuple of them; nested tuples are flattened."""
    arrays = []
    for kind, dimensions, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        arrays.append(
            Array(
                tuple(int(size) for size in dimensions.split(",") if size),
                _BITS[kind],
                space is None or space[1] == "0",
            )
        )
    return tuple(arrays)


def parse_groups(attributes: str) -> list[list[int]]:
    """Parses the groups of devices of a collective operation, in each of XLA's notations.

    They are `{{0,1},{2,3}}`, `[2,2]<=[4]`, `[2,2]<=[2,2]T(1,0)` and
    `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}`. For a permutation, the groups are its
    pairs of source and target.

    Returns:
      Indices into the program's list of devices; empty if all devices are one group.

    Raises:
      ValueError: if the attributes have none of these.
    """
    if match := re.search(
        r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})?\}", attributes
    ):
        groups = re.findall(r"\{([\d, ]+)\}", match[1] or "")
        return [[int(number) for number in group.split(",")] for group in groups]
    if match := re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        shape, dimensions, order = (_numbers(part) for part in match.groups())
        return _iota(dimensions, order).reshape(shape).tolist()
    match = _MESH.search(attributes)
    if not match:
        raise ValueError(f"no groups of devices in {attributes[:200]!r}")
    axes, dimensions, order, chosen = match.groups()
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    # A group may join part of an axis: 'a':(2)4 is the middle one of its factors 2, 4 and the rest.
    parts = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
    }
    shape, joined = [], []
    for name, size in sizes.items():
        before, part = parts.get(name, (1, 1))
        if name in parts:
            joined.append(len(shape) + 1)
        shape += [before, part, size // (before * part)]
    devices = _iota(_numbers(dimensions) or shape, _numbers(order)).reshape(shape)
    devices = np.moveaxis(devices, joined, range(-len(joined), 0))
    return devices.reshape(-1, math.prod(part for _, part in parts.values())).tolist()


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in text.split(",")] if text else []


def _iota(dimensions: Sequence[int], order: Sequence[int]) -> np.ndarray:
    numbers = np.arange(math.prod(dimensions)).reshape(dimensions)
    return numbers.transpose(order) if order else numbers
