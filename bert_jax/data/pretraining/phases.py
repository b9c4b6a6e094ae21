"""Resolves the phases of a pretraining run: fills in every setting."""

import dataclasses
from collections.abc import Sequence

from bert_jax.config import PhaseConfig, PretrainConfig, PretrainDataConfig
from bert_jax.errors import UserError

_TOKENS_PER_EXAMPLE = 32  # decides N where the config does not


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run in which all batches have one shape."""

    number: int  # from 0
    first_step: int  # number of steps finished when it begins
    end_step: int  # number of steps finished when it ends
    batch_size: int  # B
    data: PretrainDataConfig  # with the phase's T and N


def with_length(data: PretrainDataConfig, length: int) -> PretrainDataConfig:
    """Returns `data` with T set to `length`, and with N filled in."""
    examples = data.max_examples_per_row or max(1, length // _TOKENS_PER_EXAMPLE)
    return dataclasses.replace(data, length=length, max_examples_per_row=examples)


def resolve_phases(config: PretrainConfig) -> list[Phase]:
    """Returns the phases in order; together they have all steps of the run.

    Args:
      config: of the run; without `phases` the run is one phase with `data` and `batch_size`.

    Raises:
      UserError: if a phase is shorter than a step.
    """
    phases, share, begin = [], 0.0, 0
    for number, phase in enumerate(config.phases or [PhaseConfig()]):
        share += phase.share
        end = round(share * config.steps)
        if end <= begin:
            raise UserError(
                f"--config.phases[{number}].share={phase.share} of steps={config.steps} is less"
                " than one step: raise one of them"
            )
        data = with_length(config.data, phase.length or config.data.length)
        phases.append(Phase(number, begin, end, phase.batch_size or config.batch_size, data))
        begin = end
    return phases


def phase_of(phases: Sequence[Phase], step: int) -> Phase:
    """Returns the phase of a step; steps are counted from 1."""
    return next(phase for phase in phases if step <= phase.end_step)
