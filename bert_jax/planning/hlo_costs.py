"""Costs of a compiled program on each device: FLOPs, memory traffic and collective operations.

XLA's own `cost_analysis` counts the body of a loop once; here each iteration counts.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence

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

# No traffic: these only name values, wait for an operation that was counted at its start, or call
# computations that are counted by themselves.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call"}
_FREE |= {"conditional", "after-all", "partition-id", "replica-id", "opt-barrier", "async-start"}
_FREE |= {"async-update", "add-dependency"}
# These read only a part of their first operand.
_PART_READERS = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation and the devices that take part in it.

    Attributes:
      operation: one of `COLLECTIVES`.
      groups: the devices of each group; of a permutation, its pairs of source and target, which
        need not be alike: some may cross hosts. () for one group of all.
    """

    operation: str
    groups: tuple[tuple[int, ...], ...]


@dataclasses.dataclass
class Moved:
    """Number of runs of a collective operation, and the bytes that they move in total.

    Attributes:
      runs: how often it runs.
      payload_bytes: input of one device; for a gather, its output.
      sent_bytes: sent by one device, by the algorithm that sends least (a ring).
    """

    runs: int = 0
    payload_bytes: float = 0.0
    sent_bytes: float = 0.0


@dataclasses.dataclass
class Costs:
    """Work of one device in one run of a program.

    Attributes:
      flops: of matrix products and convolutions; a multiply-add counts as two.
      memory_bytes: read from and written to main memory, without the padding of tiles.
      collectives: bytes moved by each collective operation.
    """

    flops: float = 0.0
    memory_bytes: float = 0.0
    collectives: dict[Collective, Moved] = dataclasses.field(default_factory=dict)

    @property
    def sent_bytes(self) -> float:
        """Bytes that the device sends in all collective operations."""
        return sum(moved.sent_bytes for moved in self.collectives.values())

    def add(self, other: "Costs", times: int = 1) -> None:
        """Adds the costs of something that runs `times` times."""
        self.flops += times * other.flops
        self.memory_bytes += times * other.memory_bytes
        for collective, moved in other.collectives.items():
            self.add_collective(collective, moved, times)

    def add_collective(self, collective: Collective, moved: Moved, times: int = 1) -> None:
        """Adds a collective operation that runs `times` times."""
        ours = self.collectives.setdefault(collective, Moved())
        ours.runs += times * moved.runs
        ours.payload_bytes += times * moved.payload_bytes
        ours.sent_bytes += times * moved.sent_bytes


def program_costs(program: Program, devices: int) -> Costs:
    """Returns the costs of one run of a program on each of its devices.

    Args:
      program: from `hlo.parse_program`.
      devices: number that it was compiled for.
    """
    return _Counter(program, devices).computation(program.entry)


def axes_of_groups(groups: Sequence[Sequence[int]], mesh_shape: dict[str, int]) -> str:
    """Returns the mesh axes along which devices of a group differ, such as 'data fsdp'.

    Args:
      groups: indices into the list of devices, as many in each; () for one group of all.
      mesh_shape: axis -> size, in the order of the mesh.
    """
    sizes = tuple(mesh_shape.values())
    devices = np.array(groups or [range(math.prod(sizes))])
    coordinates = np.stack(np.unravel_index(devices, sizes))
    varies = (coordinates != coordinates[:, :, :1]).any(axis=(1, 2))
    return " ".join(name for name, along in zip(mesh_shape, varies, strict=True) if along)


# A collective operation of a program: its channel or name, and the bytes of each result.
_Label = tuple[str, tuple[int, ...]]
_Labels = frozenset[_Label]


class _Counter:
    """Adds up costs over a program; each computation is counted once and cached."""

    def __init__(self, program: Program, devices: int) -> None:
        self._program, self._devices = program, devices
        self._known: dict[tuple[str, _Labels], Costs] = {}

    def computation(self, name: str, counted: _Labels = frozenset()) -> Costs:
        """Returns the costs of a computation that is not part of a fusion.

        Args:
          name: of it.
          counted: collective operations of the computations that call it, of which it may have
            pieces.
        """
        if (name, counted) not in self._known:
            costs, within = Costs(), self._program.computations[name]
            own = self._collectives(name)
            for instruction in within.values():
                self._add_called(costs, instruction, counted.union(own))
                costs.flops += self._flops(instruction, within)
                costs.memory_bytes += self._traffic(instruction, within)
            for label, (collective, moved) in own.items():
                if label not in counted:
                    costs.add_collective(collective, moved)
            self._known[name, counted] = costs
        return self._known[name, counted]

    def _add_called(self, costs: Costs, instruction: Instruction, counted: _Labels) -> None:
        """Adds the costs of the computations that an instruction calls, except its fused ones."""
        if instruction.opcode == "while":
            body, condition = instruction.called("body"), instruction.called("condition")
            times = self._trip_count(instruction, body, condition)
            costs.add(self.computation(body, counted), times)
            costs.add(self.computation(condition, counted), times)
        elif instruction.opcode in ("call", "async-start"):
            called = instruction.called("to_apply") or instruction.called("calls")
            costs.add(self.computation(called, counted))
        elif instruction.opcode == "conditional":  # count the most expensive branch
            branches = _branches(instruction.attributes)
            choices = [self.computation(name, counted) for name in branches]
            costs.add(max(choices, key=lambda choice: (choice.flops, choice.memory_bytes)))

    def _flops(self, instruction: Instruction, within: Computation) -> float:
        if instruction.opcode == "dot":
            return _dot_flops(instruction, within)
        if instruction.opcode == "convolution":
            return _convolution_flops(instruction, within)
        if instruction.opcode == "custom-call" and _is_library_call(instruction, "cublas"):
            return _cublas_flops(instruction, within)
        if instruction.opcode == "custom-call":
            return _attention_flops(instruction, within)
        if instruction.opcode == "fusion":
            called = self._program.computations[instruction.called("calls")]
            return sum(self._flops(each, called) for each in called.values())
        return 0.0

    def _collectives(self, name: str) -> dict[_Label, tuple[Collective, Moved]]:
        """Returns the collective operations of a computation, including those in its fusions.

        TPU programs spread one operation over several fusions, some in loops that run meanwhile,
        each of which contains the whole of it: the same channel and size identify it.
        """
        found: dict[_Label, tuple[Collective, Moved]] = {}
        within = self._program.computations[name]
        for instruction in within.values():
            if instruction.opcode == "fusion":
                found |= self._collectives(instruction.called("calls"))
            elif instruction.opcode.removesuffix("-start") in COLLECTIVES:
                channel = re.search(r"channel_id=\d+", instruction.attributes)
                label = channel[0] if channel else instruction.name
                sizes = tuple(array.bytes for array in instruction.arrays)
                found[label, sizes] = self._collective(instruction, within, name)
        return found

    def _trip_count(self, loop: Instruction, body: str, condition: str) -> int:
        """Returns the number of iterations: the compiler's note, or the limit in the condition.

        JAX's loops count from 0 in steps of 1; those that gather the pieces of a product while they
        multiply them, which the compiler makes, may take two a time.
        """
        if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(noted[1])
        limits = [
            int(instruction.literal)
            for instruction in self._program.computations[condition].values()
            if instruction.opcode == "constant" and instruction.literal.isdigit()
        ]
        if len(limits) != 1:
            raise ValueError(f"no trip count for {loop.name}: its condition has limits {limits}")
        return math.ceil(limits[0] / self._counter_step(body, condition))

    def _counter_step(self, body: str, condition: str) -> int:
        """Returns what a loop adds to its counter in each iteration; 1 where that is not seen."""
        within, conditions = self._program.computations[body], self._program.computations[condition]
        counter = next(
            (each for each in conditions.values() if each.opcode == "get-tuple-element"), None
        )
        root = next(each for each in within.values() if each.is_root)
        if counter is None or root.opcode != "tuple":
            return 1
        [place] = re.findall(r"\bindex=(\d+)", counter.attributes)
        added = within[root.operands[int(place)]]
        if added.opcode != "add":
            return 1
        steps = [within[name].literal for name in added.operands]
        return next((int(literal) for literal in steps if literal.isdigit()), 1)

    def _collective(
        self, instruction: Instruction, within: Computation, name: str
    ) -> tuple[Collective, Moved]:
        """Returns a collective operation, and the bytes that one run of it moves."""
        operation = instruction.opcode.removesuffix("-start")
        if operation == "all-reduce" and "all-reduce-scatter" in name:
            operation = "reduce-scatter"  # TPU programs write it so: sum, then keep a slice
        groups = tuple(map(tuple, parse_groups(instruction.attributes)))
        payload = sum(array.bytes for array in _operand_arrays(instruction, within))
        if operation == "collective-permute":
            pairs = tuple(pair for pair in groups if pair[0] != pair[1])
            moved = Moved(1, payload, payload if pairs else 0)
            return Collective(operation, pairs or groups), moved
        size = len(groups[0]) if groups else self._devices
        if operation == "all-gather":
            payload *= size
        rounds = 2 if operation == "all-reduce" else 1
        sent = payload * rounds * (size - 1) / size
        return Collective(operation, groups), Moved(1, payload, sent)

    def _traffic(self, instruction: Instruction, within: Computation) -> float:
        """Returns the bytes of main memory that an instruction reads and writes."""
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            return 0
        if opcode == "fusion":
            return self._fusion_traffic(instruction, within)
        if opcode in ("copy-start", "slice-start"):  # the result is a tuple with both ends
            target, source = _copied(instruction)
            return _traffic_of([target]) + (target.bytes if source.in_main_memory else 0)
        operands = _operand_arrays(instruction, within)
        if opcode in _PART_READERS:
            source = instruction.arrays[0].bytes if operands[0].in_main_memory else 0
            return source + _traffic_of([*instruction.arrays, *operands[1:]])
        if opcode in ("dynamic-update-slice", "scatter"):  # in place
            return 2 * _traffic_of(operands[1:]) if operands[0].in_main_memory else 0
        if opcode == "custom-call" and "AllocateBuffer" in instruction.attributes:
            return 0
        results = instruction.arrays
        if opcode == "custom-call" and _is_library_call(instruction, "cublas|cudnn"):
            # The last result is a workspace: room for the kernel, which it may leave as it is.
            results = results[:-1] if results[-1].bits == 8 and len(results) > 1 else results
        return _traffic_of([*results, *operands])

    def _fusion_traffic(self, fusion: Instruction, within: Computation) -> float:
        """Returns the bytes that a fusion reads of its operands and writes of its results."""
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
        """Returns the share of a fusion's parameter that is read: its slices, or 1 for all."""
        whole, share = computation[name].arrays[0].elements, 0.0
        for user in computation.values():
            if name not in user.operands:
                continue
            if user.opcode in _PART_READERS and user.operands[0] == name:
                share += user.arrays[0].elements / whole
            elif user.opcode == "tuple" or (
                user.opcode == "dynamic-update-slice" and user.operands[0] == name
            ):
                continue  # passed through, or overwritten in place
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
        """Returns the bytes written of a fusion's result: of an update in place, or all."""
        while source is not None and source.opcode == "bitcast":
            source = computation.get(source.operands[0])
        if source is not None and source.opcode == "parameter":
            return 0.0  # passed through
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


def _copied(instruction: Instruction) -> tuple[Array, Array]:
    """Returns the target and the source of an asynchronous copy."""
    first, second = instruction.arrays[:2]
    return (first, second) if instruction.opcode == "copy-start" else (second, first)


def _branches(attributes: str) -> list[str]:
    if match := re.search(r"branch_computations=\{([^}]*)\}", attributes):
        return re.findall(r"[\w.\-]+", match[1])
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)


def _is_library_call(call: Instruction, libraries: str) -> bool:
    """Tells whether a custom call goes to one of NVIDIA's libraries, such as "cublas|cudnn"."""
    return bool(re.search(rf'custom_call_target="__(?:{libraries})\$', call.attributes))


def _cublas_flops(call: Instruction, within: Computation) -> float:
    """Counts a product whose contracted axes are in the call's configuration.

    Raises:
      ValueError: if they are not.
    """
    match = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', call.attributes)
    if not match:
        raise ValueError(f"{call.name} does not tell its contracted axes")
    left = within[call.operands[0]].arrays[0].dimensions
    contracted = [left[int(axis)] for axis in re.findall(r"\d+", match[1])]
    return 2.0 * call.arrays[0].elements * float(np.prod(contracted))


# Kernels of fused attention: what tells them, the products of theirs that are as large as the
# scores, and the axis of keys in their second operand. TPU's backward pass is two kernels, each of
# which makes the scores and their gradient anew.
_ATTENTION_KERNELS = (
    (r'custom_call_target="__cudnn\$fmha\w*Backward"', 5, 1),
    (r'custom_call_target="__cudnn\$fmha', 2, 1),
    (r"flash_mha_bwd_dkv", 4, 2),
    (r"flash_mha_bwd_dq", 3, 2),
    (r"flash_attention", 2, 2),
)


def _attention_flops(call: Instruction, within: Computation) -> float:
    """Counts the products of a kernel of fused attention; 0 for another call."""
    is_kernel = re.search(r'custom_call_target="(?:tpu_custom_call|__cudnn)', call.attributes)
    for sign, products, axis in _ATTENTION_KERNELS if is_kernel else ():
        if re.search(sign, f"{call.name} {call.attributes}"):
            query, key = (within[name].arrays[0] for name in call.operands[:2])
            return 2.0 * products * query.elements * key.dimensions[axis]
    return 0.0


def _dot_flops(dot: Instruction, within: Computation) -> float:
    left = within[dot.operands[0]].arrays[0].dimensions
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    contracted = [left[int(axis)] for axis in (match[1] if match else "").split(",") if axis]
    return 2.0 * dot.arrays[0].elements * float(np.prod(contracted))


def _convolution_flops(convolution: Instruction, within: Computation) -> float:
    """Counts products of real elements only, not of padding or of the gaps of dilation.

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
        is_real = (at >= 0) & (at % dilation == 0) & (at // dilation < source[axis])
        pairs *= int(is_real.sum())
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
