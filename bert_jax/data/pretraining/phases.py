"""The phases of a pretraining run, with every setting filled in."""

import dataclasses
from collections.abc import Sequence

from bert_jax.config import PhaseConfig, PretrainConfig, PretrainDataConfig
from bert_jax.errors import UserError

_TOKENS_PER_EXAMPLE = 32  # decides N where the config does not


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run in which every batch has one shape."""

    number: int  # from 0
    first_step: int  # steps finished when it begins
    end_step: int  # and when it ends
    batch_size: int  # B
    data: PretrainDataConfig  # with the phase's T and N


def with_length(data: PretrainDataConfig, length: int) -> PretrainDataConfig:
    """Returns the settings of rows of `length` tokens, with N filled in."""
    examples = data.max_examples_per_row or max(1, length // _TOKENS_PER_EXAMPLE)
    return dataclasses.replace(data, length=length, max_examples_per_row=examples)


def resolve_phases(config: PretrainConfig) -> list[Phase]:
    """Returns the phases in their order; together they take all steps.

    Args:
      config: of the run; without phases it has one, as `data` and `batch_size` say.

    Raises:
      UserError: if a phase is too short to have a step.
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
    """Returns the phase that a step, counted from 1, is of."""
    return next(phase for phase in phases if step <= phase.end_step)
