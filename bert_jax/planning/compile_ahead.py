"""Memory and costs of a train step on each device, read from the compiled step; nothing runs."""

import dataclasses
import math
import re
from typing import Any

import jax

from bert_jax.errors import UserError
from bert_jax.planning.abstract_steps import AbstractStep
from bert_jax.planning.hlo import parse_program
from bert_jax.planning.hlo_costs import Costs, axes_of_groups, program_costs

# Of kernels that XLA generates for products, no GPU tells the fastest: the default is slow, and for
# some shapes there is none. So products are calls of cuBLAS.
_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_enable_triton_gemm": False}}

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Memory of a train step on one device, in bytes, and the costs of running it once.

    Attributes:
      parameters: bytes.
      optimizer: bytes of its state.
      batch: bytes.
      teacher: bytes of the parameters of a teacher; 0 where there is none.
      temporaries: bytes of activations, gradients and the like, at their peak.
      program: bytes of the compiled instructions.
      costs: of one run; None if compiling failed because the temporaries alone exceed the memory.
      sent: (operation, mesh axes) -> bytes that a device sends in one run.
    """

    parameters: int
    optimizer: int
    batch: int
    teacher: int
    temporaries: int
    program: int
    costs: Costs | None
    sent: dict[tuple[str, str], float]

    @property
    def arguments(self) -> int:
        """Bytes of the step's inputs: parameters, optimizer state, batch and teacher."""
        return self.parameters + self.optimizer + self.batch + self.teacher

    @property
    def peak(self) -> int:
        """Bytes in total."""
        return self.arguments + self.temporaries + self.program


def compile_step(step: AbstractStep) -> Footprint:
    """Compiles a step for the devices of its mesh.

    A step that exceeds the memory is not an error: its footprint then holds the bytes that it
    would need.

    Raises:
      jax.errors.JaxRuntimeError: if compiling fails for another reason.
      UserError: if this version of JAX cannot read what the compiler made.
    """
    abstract = step.compiled.abstract
    arguments = {
        "parameters": device_bytes((abstract.params, abstract.average)),
        "optimizer": device_bytes((abstract.step, abstract.opt_state)),
        "batch": device_bytes(step.batch),
        "teacher": device_bytes(step.teacher),
    }
    try:
        compiled = step.lower().compile(_OPTIONS.get(step.mesh.devices.flat[0].platform))
    except jax.errors.JaxRuntimeError as error:
        temporaries = parse_out_of_memory(str(error), sum(arguments.values()))
        if temporaries is None:
            raise
        return Footprint(**arguments, temporaries=temporaries, program=0, costs=None, sent={})
    try:
        memory, text = compiled.memory_analysis(), compiled.as_text()
    except jax.errors.JaxRuntimeError:  # a libtpu of a later format
        memory = text = None
    if memory is None or text is None:
        raise UserError(
            f"JAX {jax.__version__} cannot read the program that the compiler of"
            f" {step.mesh.devices.flat[0].device_kind} made: install the one for this JAX:"
            " pip install -e '.[plan]'"
        )
    costs = program_costs(parse_program(text), step.mesh.size)
    sent: dict[tuple[str, str], float] = {}
    for collective, moved in costs.collectives.items():
        axes = axes_of_groups(collective.groups, dict(step.mesh.shape))
        key = (collective.operation, axes)
        sent[key] = sent.get(key, 0) + moved.sent_bytes
    # The new state reuses the memory of the old one, which is donated; other outputs do not.
    new_outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Footprint(
        **arguments,
        temporaries=memory.temp_size_in_bytes + max(new_outputs, 0),
        program=memory.generated_code_size_in_bytes,
        costs=costs,
        sent=sent,
    )


def device_bytes(tree: Any) -> int:
    """Returns the bytes that one device stores of a tree of abstract, sharded arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def parse_out_of_memory(message: str, arguments: int) -> int | None:
    """Returns the bytes of temporaries in a compiler's out-of-memory error; None for other errors.

    Args:
      message: of the error.
      arguments: bytes of the program's arguments, which some messages include.
    """
    number = r"([\d.]+)([KMGT]?)"
    if match := re.search(rf"temporaries \({number}\) exceeds available", message):
        return _bytes(match[1], match[2])
    if match := re.search(rf"Used {number} of \S+ hbm", message):
        return max(_bytes(match[1], match[2]) - arguments, 0)
    return None


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])
