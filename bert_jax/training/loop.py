"""The training loop of every driver."""

import time
from collections.abc import Iterator
from typing import Any

from bert_jax.distributed.processes import JointStop
from bert_jax.stopping import StopRequest
from bert_jax.training.compilations import Compilations
from bert_jax.training.logs import StepReports
from bert_jax.training.state import TrainState
from bert_jax.training.step import StepOf


def run_steps(
    train_step_of: StepOf,
    state: TrainState,
    batches: Iterator[Any],
    run: Any,
    *,
    steps: int,
    reports: StepReports,
    stop: StopRequest | JointStop,
) -> Iterator[tuple[int, TrainState, bool]]:
    """Trains, and hands over after each step, for evaluation and saving.

    A state is donated to the step that follows it: use it before asking for the next.

    Args:
      train_step_of: a step -> its compiled update, from `step.make_train_step`.
      state: where to begin, before step `steps`.
      batches: global arrays, one batch a step.
      run: what every step takes beside its batch, such as `RunInputs`.
      steps: of the whole run.
      reports: are told of each step, and of the time spent waiting for data.
      stop: ends the loop after the step in which it is asked for.

    Yields:
      (step, state after it, whether it is the last one).
    """
    step, last = int(state.step), False
    with Compilations(train_step_of(step + 1)) as compilations:
        while not last:
            step += 1
            asked = time.monotonic()
            batch = next(batches)
            reports.waited(time.monotonic() - asked)
            train_step = train_step_of(step)
            state, totals = train_step(state, batch, run)
            if compilations.needless(train_step, batch):
                reports.compiled_again(step)
            reports.add(step, totals)
            last = stop.requested(step) or step == steps
            yield step, state, last
