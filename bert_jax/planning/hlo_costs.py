"""What a compiled program costs each device: products, memory traffic and collective operations.

XLA's own analysis counts the body of a loop once; here it counts as often as it runs.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable

import numpy as np

from bert_jax.planning.hlo import Array, Computation, Instruction, Program, parse_groups

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)

# What names or renames values, waits for what is counted where it begins, or is empty.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call"}
_FREE |= {"conditional", "after-all", "partition-id", "replica-id", "opt-barrier", "async-start"}
_FREE |= {"async-update", "add-dependency"}
# What reads only a part of its first operand.
_PART_READERS = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation, and how devices are joined by it."""

    operation: str
    group: tuple[int, ...]  # the devices of the first group; () for all


@dataclasses.dataclass
class Moved:
    """How often a collective operation runs, and the bytes that it moves.

    Attributes:
      runs: of it.
      payload_bytes: what a device puts in; of a gather, what it takes out.
      sent_bytes: what a device sends, where the algorithm sends least.
    """

    runs: int = 0
    payload_bytes: float = 0.0
    sent_bytes: float = 0.0


@dataclasses.dataclass
class Costs:
    """What one device does in one run of a program.

    Attributes:
      flops: of matrix products and convolutions, two for each multiplication with its addition.
      memory_bytes: read from and written to the main memory, without the padding of tiles.
      collectives: what each moves.
    """

    flops: float = 0.0
    memory_bytes: float = 0.0
    collectives: dict[Collective, Moved] = dataclasses.field(default_factory=dict)

    @property
    def sent_bytes(self) -> float:
        """What the device sends in all."""
        return sum(moved.sent_bytes for moved in self.collectives.values())

    def add(self, other: "Costs", times: int = 1) -> None:
        """Adds what runs so many times."""
        self.flops += times * other.flops
        self.memory_bytes += times * other.memory_bytes
        for collective, moved in other.collectives.items():
            self.add_collective(collective, moved, times)

    def add_collective(self, collective: Collective, moved: Moved, times: int = 1) -> None:
        """Adds a collective operation that runs so many times."""
        ours = self.collectives.setdefault(collective, Moved())
        ours.runs += times * moved.runs
        ours.payload_bytes += times * moved.payload_bytes
        ours.sent_bytes += times * moved.sent_bytes


def program_costs(program: Program, devices: int) -> Costs:
    """Adds up what a program of so many devices costs each of them."""
    return _Counter(program, devices).computation(program.entry)


def axes_of_group(group: Iterable[int], mesh_shape: dict[str, int]) -> str:
    """Names the mesh axes along which a group's devices lie, such as 'data' or 'data fsdp'.

    Args:
      group: places in the list of devices; () for all.
      mesh_shape: axis -> size, in the order of the mesh.
    """
    sizes = tuple(mesh_shape.values())
    places = np.array(list(group) or range(int(np.prod(sizes))))
    coordinates = np.stack(np.unravel_index(places, sizes))
    varies = (coordinates != coordinates[:, :1]).any(axis=1)
    return " ".join(name for name, along in zip(mesh_shape, varies, strict=True) if along)


class _Counter:
    """Walks a program; each computation is counted once and remembered."""

    def __init__(self, program: Program, devices: int) -> None:
        self._program, self._devices = program, devices
        self._known: dict[str, Costs] = {}

    def computation(self, name: str) -> Costs:
        """Counts a computation that is not fused."""
        if name not in self._known:
            costs, within = Costs(), self._program.computations[name]
            for instruction in within.values():
                self._add_called(costs, instruction)
                costs.flops += self._flops(instruction, within)
                costs.memory_bytes += self._traffic(instruction, within)
            for collective, moved in self._collectives(name).values():
                costs.add_collective(collective, moved)
            self._known[name] = costs
        return self._known[name]

    def _add_called(self, costs: Costs, instruction: Instruction) -> None:
        """Adds the computations that an instruction runs, but those that are fused into it."""
        if instruction.opcode == "while":
            body, condition = instruction.called("body"), instruction.called("condition")
            times = self._trip_count(instruction, condition)
            costs.add(self.computation(body), times)
            costs.add(self.computation(condition), times)
        elif instruction.opcode in ("call", "async-start"):
            called = instruction.called("to_apply") or instruction.called("calls")
            costs.add(self.computation(called))
        elif instruction.opcode == "conditional":  # any branch may run; the costliest counts
            choices = [self.computation(name) for name in _branches(instruction.attributes)]
            costs.add(max(choices, key=lambda choice: (choice.flops, choice.memory_bytes)))

    def _flops(self, instruction: Instruction, within: Computation) -> float:
        if instruction.opcode == "dot":
            return _dot_flops(instruction, within)
        if instruction.opcode == "convolution":
            return _convolution_flops(instruction, within)
        if instruction.opcode == "fusion":
            called = self._program.computations[instruction.called("calls")]
            return sum(self._flops(each, called) for each in called.values())
        return 0.0

    def _collectives(self, name: str) -> dict[tuple, tuple[Collective, Moved]]:
        """Returns the collective operations of a computation and of what is fused into it.

        TPU programs spread one over several fusions, each of which names it whole; its channel and
        its shape say that it is the same.
        """
        found = {}
        within = self._program.computations[name]
        for instruction in within.values():
            if instruction.opcode == "fusion":
                found |= self._collectives(instruction.called("calls"))
            elif instruction.opcode.removesuffix("-start") in COLLECTIVES:
                channel = re.search(r"channel_id=\d+", instruction.attributes)
                label = channel[0] if channel else instruction.name
                found[label, instruction.arrays] = self._collective(instruction, within, name)
        return found

    def _trip_count(self, loop: Instruction, condition: str) -> int:
        """Returns how often a loop runs: as the compiler noted it, or up to what it compares with.

        Loops of JAX count from 0 by ones.
        """
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(noted[1])
        limits = [
            int(instruction.literal)
            for instruction in self._program.computations[condition].values()
            if instruction.opcode == "constant" and instruction.literal.isdigit()
        ]
        if len(limits) != 1:
            raise ValueError(f"how often does {loop.name} run? its condition has limits {limits}")
        return limits[0]

    def _collective(
        self, instruction: Instruction, within: Computation, name: str
    ) -> tuple[Collective, Moved]:
        """Returns a collective operation, and what one run of it moves."""
        operation = instruction.opcode.removesuffix("-start")
        if operation == "all-reduce" and "all-reduce-scatter" in name:
            operation = "reduce-scatter"  # so TPUs have it: a sum of which each keeps a part
        groups = parse_groups(instruction.attributes)
        put_in = sum(array.bytes for array in _operand_arrays(instruction, within))
        if operation == "collective-permute":
            pairs = [pair for pair in groups if pair[0] != pair[1]]
            moved = Moved(1, put_in, put_in if pairs else 0)
            return Collective(operation, tuple((pairs or groups)[0])), moved
        group = tuple(groups[0]) if groups else ()
        size = len(group) or self._devices
        if operation == "all-gather":
            put_in *= size
        rounds = 2 if operation == "all-reduce" else 1
        return Collective(operation, group), Moved(1, put_in, put_in * rounds * (size - 1) / size)

    def _traffic(self, instruction: Instruction, within: Computation) -> float:
        """Counts the bytes of main memory that an instruction reads and writes."""
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            return 0
        if opcode == "fusion":
            return self._fusion_traffic(instruction, within)
        if opcode in ("copy-start", "slice-start"):  # its result names where from and where to
            target, source = _ends(instruction)
            return _traffic_of([target]) + (target.bytes if source.in_main_memory else 0)
        operands = _operand_arrays(instruction, within)
        if opcode in _PART_READERS:
            source = instruction.arrays[0].bytes if operands[0].in_main_memory else 0
            return source + _traffic_of([*instruction.arrays, *operands[1:]])
        if opcode in ("dynamic-update-slice", "scatter"):  # in place
            return 2 * _traffic_of(operands[1:]) if operands[0].in_main_memory else 0
        if opcode == "custom-call" and "AllocateBuffer" in instruction.attributes:
            return 0
        return _traffic_of([*instruction.arrays, *operands])

    def _fusion_traffic(self, fusion: Instruction, within: Computation) -> float:
        """Counts what a fusion reads of its operands, and what it writes of its results."""
        called = self._program.computations[fusion.called("calls")]
        operands = _operand_arrays(fusion, within)
        parameters = _parameters(called)
        read = sum(
            min(self._read_share(called, parameters[number].name), 1.0) * operand.bytes
            for number, operand in enumerate(operands)
            if operand.in_main_memory
        )
        root = next(each for each in called.values() if each.is_root)
        roots = [called[name] for name in root.operands] if root.opcode == "tuple" else [root]
        written = 0.0
        for array, source in itertools.zip_longest(fusion.arrays, roots):
            if array is not None and array.in_main_memory:
                written += self._written_bytes(called, source, array)
        return read + written

    def _read_share(self, computation: Computation, name: str) -> float:
        """Returns which share of a fused parameter is read: slices of it, or all."""
        whole, share = computation[name].arrays[0].elements, 0.0
        for user in computation.values():
            if name not in user.operands:
                continue
            if user.opcode in _PART_READERS and user.operands[0] == name:
                share += user.arrays[0].elements / whole
            elif user.opcode == "tuple" or (
                user.opcode == "dynamic-update-slice" and user.operands[0] == name
            ):
                continue  # handed through, or overwritten in place
            elif user.opcode in ("bitcast", "fusion"):
                share += self._read_share_within(computation, user, name)
            else:
                return 1.0
        return share

    def _read_share_within(self, computation: Computation, user: Instruction, name: str) -> float:
        if user.opcode == "bitcast":
            return 0.0 if user.is_root else self._read_share(computation, user.name)
        called = self._program.computations[user.called("calls")]
        parameters = _parameters(called)
        numbers = [number for number, operand in enumerate(user.operands) if operand == name]
        return sum(self._read_share(called, parameters[number].name) for number in numbers)

    def _written_bytes(
        self, computation: Computation, source: Instruction | None, array: Array
    ) -> float:
        """Returns what is written of a fusion's result: an update in place, or all."""
        while source is not None and source.opcode == "bitcast":
            source = computation.get(source.operands[0])
        if source is not None and source.opcode == "parameter":
            return 0.0  # handed through
        if source is not None and source.opcode == "dynamic-update-slice":
            update = computation[source.operands[1]].arrays[0]
            return array.bytes * update.elements / max(source.arrays[0].elements, 1)
        return array.bytes


def _parameters(computation: Computation) -> dict[int, Instruction]:
    return {int(each.literal): each for each in computation.values() if each.opcode == "parameter"}


def _operand_arrays(instruction: Instruction, within: Computation) -> list[Array]:
    return [array for name in instruction.operands for array in within[name].arrays]


def _traffic_of(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays if array.in_main_memory)


def _ends(instruction: Instruction) -> tuple[Array, Array]:
    """Returns what an asynchronous copy writes, and what it reads."""
    first, second = instruction.arrays[:2]
    return (first, second) if instruction.opcode == "copy-start" else (second, first)


def _branches(attributes: str) -> list[str]:
    if match := re.search(r"branch_computations=\{([^}]*)\}", attributes):
        return re.findall(r"[\w.\-]+", match[1])
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)


def _dot_flops(dot: Instruction, within: Computation) -> float:
    left = within[dot.operands[0]].arrays[0].dimensions
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    contracted = [left[int(axis)] for axis in (match[1] if match else "").split(",") if axis]
    return 2.0 * dot.arrays[0].elements * float(np.prod(contracted))


def _convolution_flops(convolution: Instruction, within: Computation) -> float:
    """Counts the products whose factors are both there: not padding, not between dilated ones.

    TPU programs write a batched matrix product as a dilated convolution.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    if not labels:
        raise ValueError(f"{convolution.name} has no dim_labels")
    window = _window(convolution.attributes)
    sizes = [
        dict(zip(label, array.dimensions, strict=True))
        for label, array in zip(
            labels.groups(),
            [*(within[name].arrays[0] for name in convolution.operands), convolution.arrays[0]],
            strict=True,
        )
    ]
    source, kernel, result = sizes
    pairs = 1
    for axis in (label for label in labels[1] if label.isdigit()):
        number = int(axis)
        size, stride, low, dilation, kernel_dilation = window(number)
        assert size == kernel[axis]
        at = (
            np.arange(result[axis])[:, None] * stride
            + np.arange(size)[None, :] * kernel_dilation
            - low
        )
        there = (at >= 0) & (at % dilation == 0) & (at // dilation < source[axis])
        pairs *= int(there.sum())
    groups = re.search(r"batch_group_count=(\d+)", convolution.attributes)
    batch = result["b"] / (int(groups[1]) if groups else 1)
    return 2.0 * batch * result["f"] * kernel["i"] * pairs


def _window(attributes: str) -> Callable[[int], tuple[int, int, int, int, int]]:
    """Returns axis -> (size, stride, low padding, dilation of the source, of the kernel)."""
    match = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in match[1].split()) if match else {}

    def of_axis(axis: int) -> tuple[int, int, int, int, int]:
        def field(name: str, default: str) -> str:
            return fields[name].split("x")[axis] if name in fields else default

        low = int(field("pad", "0_0").split("_")[0])
        size, stride, dilation, kernel_dilation = (
            int(field(name, "1")) for name in ("size", "stride", "lhs_dilate", "rhs_dilate")
        )
        return size, stride, low, dilation, kernel_dilation

    return of_axis
