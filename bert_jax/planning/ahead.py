"""What a stage needs and does on each device, by compiling it: no device has to be there."""

import dataclasses
import math
import re
from typing import Any

import jax

from bert_jax.planning.hlo import parse_program
from bert_jax.planning.hlo_costs import Costs, axes_of_group, program_costs
from bert_jax.planning.stages import Stage

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What a stage needs of each device's memory, in bytes, and what its steps do.

    Attributes:
      parameters: bytes.
      optimizer: bytes of its state.
      batch: bytes.
      temporaries: bytes of activations, gradients and the like, at their most.
      program: bytes of the machine's instructions.
      costs: of a step; None where the compiler gave up, for its temporaries alone are too large.
      sent: (operation, mesh axes) -> bytes that a device sends in a step.
    """

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    program: int
    costs: Costs | None
    sent: dict[tuple[str, str], float]

    @property
    def held(self) -> int:
        """Bytes that stay from step to step, and the batch."""
        return self.parameters + self.optimizer + self.batch

    @property
    def peak(self) -> int:
        """Bytes in all."""
        return self.held + self.temporaries + self.program


def compile_stage(stage: Stage) -> Footprint:
    """Compiles a stage for the devices of its mesh.

    A program that is too large is no error: its footprint says what it would have needed.
    """
    abstract = stage.compiled.abstract
    held = {
        "parameters": device_bytes(abstract.params),
        "optimizer": device_bytes((abstract.step, abstract.opt_state)),
        "batch": device_bytes(stage.batch),
    }
    try:
        compiled = stage.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        temporaries = parse_out_of_memory(str(error), sum(held.values()))
        if temporaries is None:
            raise
        return Footprint(**held, temporaries=temporaries, program=0, costs=None, sent={})
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if memory is None or text is None:
        raise RuntimeError("this version of JAX tells nothing of what it compiled")
    costs = program_costs(parse_program(text), stage.mesh.size)
    sent: dict[tuple[str, str], float] = {}
    for collective, moved in costs.collectives.items():
        axes = axes_of_group(collective.group, dict(stage.mesh.shape))
        key = (collective.operation, axes)
        sent[key] = sent.get(key, 0) + moved.sent_bytes
    # The new state takes the place of the old one; what does not is beside it.
    beside = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Footprint(
        **held,
        temporaries=memory.temp_size_in_bytes + max(beside, 0),
        program=memory.generated_code_size_in_bytes,
        costs=costs,
        sent=sent,
    )


def device_bytes(tree: Any) -> int:
    """Counts what a device holds of abstract arrays."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def parse_out_of_memory(message: str, held: int) -> int | None:
    """Reads what a compiler says of a program that is too large.

    Args:
      message: of the error.
      held: bytes of the program's arguments.

    Returns:
      Bytes of temporaries; None for another error.
    """
    number = r"([\d.]+)([KMGT]?)"
    if match := re.search(rf"temporaries \({number}\) exceeds available", message):
        return _bytes(match[1], match[2])
    if match := re.search(rf"Used {number} of \S+ hbm", message):
        return max(_bytes(match[1], match[2]) - held, 0)
    return None


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])
