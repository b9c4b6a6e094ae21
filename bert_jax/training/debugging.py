"""Debugging: ids out of range, the operation that made a NaN, profiles."""

import contextlib
import functools
import pathlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from bert_jax.config import EncoderConfig
from bert_jax.errors import UserError
from bert_jax.model.encoder import Batch
from bert_jax.training.state import RunInputs, TrainState
from bert_jax.training.step import StepOf, UpdateFn

_PACKAGE = pathlib.Path(__file__).parents[1]


def check_ids(batch: dict[str, np.ndarray], encoder: EncoderConfig) -> None:
    """Raises UserError for an id that would read outside its table: on devices that is no error.

    Args:
      batch: fields of rows on the host.
      encoder: with the sizes of the tables.
    """
    length = batch["token_ids"].shape[1]
    limits = {
        "token_ids": encoder.vocab_size,
        "segment_ids": max(encoder.segments, 2),  # see `encoder.Embeddings`
        "position_ids": encoder.max_length,
        "pool_positions": length,
        "example_ids": length + 1,
    }
    for name, limit in limits.items():
        wrong = (batch[name] < 0) | (batch[name] >= limit)
        if wrong.any():
            row, place = (int(axis[0]) for axis in np.nonzero(wrong))
            raise UserError(
                f"{name}[{row}, {place}] of row {batch['row_ids'][row].tolist()} is"
                f" {batch[name][row, place]}, which is not below {limit}: the corpus or task does"
                " not suit the encoder"
            )


def explain_step(train_step: UpdateFn, state: TrainState, batch: Batch, run: RunInputs) -> str:
    """Runs a step operation by operation, and says which one made the first NaN.

    Args:
      train_step: of the run.
      state: before the step; it stays as it is.
      batch: of the step.
      run: of the run.

    Returns:
      The operation, and the lines of this package that led to it; or that there is none.
    """
    with jax.transfer_guard("allow"), jax.disable_jit(), jax.debug_nans(True):
        try:
            _, totals = train_step(state, batch, run)
        except FloatingPointError as error:
            own = [
                f"{path.relative_to(_PACKAGE)}:{frame.lineno} ({frame.line})"
                for frame in traceback.extract_tb(error.__traceback__)
                if (path := pathlib.Path(frame.filename)).is_relative_to(_PACKAGE)
            ]
            return f"{str(error).splitlines()[0]}, in {' > '.join(own[-3:])}"
    loss = totals["loss"].sum / np.maximum(totals["loss"].weight, 1)
    return f"no NaN was made; loss {float(loss):.6g}, skipped: {bool(totals['skipped'].sum)}"


def watched(train_step_of: StepOf, rows_of: Callable[[int], str]) -> StepOf:
    """Ends a run at the first step that would be skipped, and says what made it so.

    Each step is waited for, and its state is kept until then: this is slow and takes memory.

    Args:
      train_step_of: of the run; its steps do not donate their state.
      rows_of: a step -> the names of its rows, in words.

    Returns:
      The steps, which raise UserError.
    """

    def step_of(number: int) -> Callable[..., tuple[TrainState, Any]]:
        train_step = train_step_of(number)

        @functools.wraps(train_step)
        def step(state: TrainState, batch: Batch, run: RunInputs) -> tuple[TrainState, Any]:
            after, totals = train_step(state, batch, run)
            if jax.device_get(totals["skipped"].sum):
                reason = explain_step(train_step, state, batch, run)
                raise UserError(f"step {number} ({rows_of(number)}): {reason}")
            return after, totals

        return step

    return step_of


@contextlib.contextmanager
def profiled(train_step_of: StepOf, span: str, directory: pathlib.Path) -> Iterator[StepOf]:
    """Yields the steps of a run, some of which record a profile.

    The profile ends with the last of these steps, before the run evaluates or saves; or with the
    `with` block, where a run ends earlier.

    Args:
      train_step_of: of the run.
      span: 'FIRST:LAST', the steps to record; '': none.
      directory: for the profile, which TensorBoard's XProf opens.
    """
    if not span:
        yield train_step_of
        return
    first, last = (int(step) for step in span.split(":"))
    is_recording = False

    def recorded_step_of(number: int) -> Callable[..., tuple[TrainState, Any]]:
        train_step = train_step_of(number)

        @functools.wraps(train_step)
        def recorded_step(*arguments: Any) -> Any:
            nonlocal is_recording
            if first <= number <= last and not is_recording:
                jax.profiler.start_trace(str(directory))
                is_recording = True
            result = train_step(*arguments)
            if is_recording and number == last:
                jax.block_until_ready(result)
                jax.profiler.stop_trace()
                is_recording = False
            return result

        return recorded_step

    try:
        yield recorded_step_of
    finally:
        if is_recording:
            jax.profiler.stop_trace()
