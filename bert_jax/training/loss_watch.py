"""Watches the losses of a run for skipped steps (a loss or gradient is not finite) and spikes."""

import collections
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bert_jax.errors import UserError

MAX_SKIPPED_STEPS = 10  # in a row; more end the run

_CAUSE = (
    "Find the cause with --config.debug=True, and lower --config.optimizer.learning_rate or raise"
    " its warmup_steps"
)
_WINDOW_STEPS = 100  # before a step, which its loss is compared with
_LEAST_STEPS = 20  # of them, before anything is compared
_SPREADS = 6.0  # above their mean, in standard deviations, and a loss is called a spike
_NAMED = 10  # steps in one line


class LossWatch:
    """Reads the totals of finished steps, in their order."""

    def __init__(self, rows_of: Callable[[int], str], *, resumed: bool) -> None:
        """Starts with no step.

        Args:
          rows_of: a step -> a description of its rows.
          resumed: True if the run has learned something in an earlier process.
        """
        self._rows_of = rows_of
        self._has_learned = resumed
        self._skipped_in_a_row = 0
        self._losses: collections.deque[float] = collections.deque(maxlen=_WINDOW_STEPS)

    def check(self, first_step: int, totals: Sequence[Any]) -> tuple[dict[str, Any], list[str]]:
        """Checks the steps that follow those checked before.

        Args:
          first_step: the number of the first of them.
          totals: fetched, of each step; with an axis of runs where they are of several. A step is
            skipped if all skip it, and its loss is the mean of the others.

        Returns:
          Values to log (`skipped_steps` and `loss_spikes` with their steps and rows, if there are
          any), and messages to show.

        Raises:
          UserError: if too many steps in a row were skipped.
        """
        skipped, spikes = {}, {}
        for step, each in enumerate(totals, start=first_step):
            if np.all(each["skipped"].sum):
                skipped[step] = self._rows_of(step)
                self._count_skipped(step)
                continue
            self._skipped_in_a_row, self._has_learned = 0, True
            loss = float(np.sum(each["loss"].sum) / np.sum(each["loss"].weight))
            if self._is_spike(loss):
                spikes[step] = f"loss {loss:.4f}, {self._rows_of(step)}"
            self._losses.append(loss)
        kinds = (
            ("skipped_steps", skipped, "skipped, because the loss or a gradient is not finite"),
            ("loss_spikes", spikes, "the loss rose suddenly"),
        )
        values = {
            name: {str(n): rows for n, rows in steps.items()} for name, steps, _ in kinds if steps
        }
        return values, [_list_steps(reason, steps) for _, steps, reason in kinds if steps]

    def require_learning(self) -> None:
        """Raises UserError if every step so far was skipped: there is nothing to save or score."""
        if not self._has_learned:
            raise UserError(
                f"all {self._skipped_in_a_row} steps had a loss or a gradient that is not finite:"
                f" nothing was learned. {_CAUSE}"
            )

    def _count_skipped(self, step: int) -> None:
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > MAX_SKIPPED_STEPS:
            raise UserError(
                f"the last {self._skipped_in_a_row} steps up to {step} had a loss or a gradient"
                " that is not finite; they changed no parameter, and the checkpoints are good."
                f" {_CAUSE}"
            )

    def _is_spike(self, loss: float) -> bool:
        if len(self._losses) < _LEAST_STEPS:
            return False
        mean, spread = statistics.fmean(self._losses), statistics.stdev(self._losses)
        return loss > mean + _SPREADS * spread and not math.isclose(loss, mean, rel_tol=0.01)


def _list_steps(reason: str, steps: dict[int, str]) -> str:
    named = "; ".join(f"step {step:,} ({rows})" for step, rows in list(steps.items())[:_NAMED])
    more = f" and {len(steps) - _NAMED} more" if len(steps) > _NAMED else ""
    return f"{reason}: {named}{more}"
