"""Where a run's numbers go: JSON lines, TensorBoard, and the terminal."""

import contextlib
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from bert_jax.errors import UserError
from bert_jax.files import write_atomically

LOG_FILE = "log.jsonl"


class RunLog:
    """Writes WORKDIR/log.jsonl, TensorBoard events, and a progress line on stderr.

    On a terminal the line is a bar; elsewhere each report is a line of its own.
    """

    def __init__(self, workdir: pathlib.Path, *, first_step: int, steps: int) -> None:
        """Opens the log, and drops the lines of steps that will be run again."""
        self._path = workdir / LOG_FILE
        _drop_lines_after(self._path, first_step)
        self._file = self._path.open("a", buffering=1)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
        self._steps = steps
        self._bar = tqdm(
            total=steps, initial=first_step, unit="step", disable=None, dynamic_ncols=True
        )
        self._first_step, self._begin = first_step, time.monotonic()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Records values of a step; what is not a number goes into the JSON lines alone."""
        self._file.write(json.dumps({"step": step} | values) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)

    def progress(self, step: int, text: str) -> None:
        """Shows where the run is, and how long it will still take."""
        if self._bar.disable:
            done = max(step - self._first_step, 1)
            left = (time.monotonic() - self._begin) / done * (self._steps - step)
            print(f"step {step:,}/{self._steps:,} {text}, {duration(left)} left", file=sys.stderr)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Shows a line without disturbing the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Finishes the files and the bar."""
        self._bar.close()
        self._file.close()
        self._board.close()


class SilentLog(RunLog):
    """The log of a process that is not the first: it tells nothing."""

    def __init__(self) -> None:
        """Opens nothing."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Records nothing."""

    def progress(self, step: int, text: str) -> None:
        """Shows nothing."""

    def say(self, text: str) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Has nothing to finish."""


def open_log(workdir: pathlib.Path, *, first_step: int, steps: int) -> RunLog:
    """Opens the log of a run, which process 0 writes."""
    if jax.process_index():
        return SilentLog()
    return RunLog(workdir, first_step=first_step, steps=steps)


def duration(seconds: float) -> str:
    """Says a time in words of two units at most: '1 h 05 min', '42 s'."""
    seconds = math.ceil(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads JSON lines; a last line that was torn by a crash is left out."""
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def _drop_lines_after(path: pathlib.Path, step: int) -> None:
    if path.exists():
        kept = [json.dumps(entry) + "\n" for entry in read_log(path) if entry["step"] <= step]
        write_atomically(path, "".join(kept).encode())


class StepReports:
    """Gathers what the steps return, and reports their means every `log_steps`.

    Values are fetched one step after they are due, when the device already has its next step to do:
    it never waits for the host.
    """

    def __init__(
        self,
        log: RunLog,
        log_steps: int,
        learning_rate: Callable[[int], Any],
        max_skipped_steps: int,
    ) -> None:
        """Starts the clock.

        Args:
          log: takes the reports.
          log_steps: between them.
          learning_rate: the schedule, to be logged.
          max_skipped_steps: in a row; more end the run.
        """
        self._max_skipped, self._skipped_in_a_row = max_skipped_steps, 0
        self._log, self._log_steps, self._learning_rate = log, log_steps, learning_rate
        self._totals: list[Any] = []  # of the steps since the last report, on the device
        self._step = 0
        self._begin = time.monotonic()
        self._waited = 0.0

    def add(self, step: int, totals: Any) -> None:
        """Takes the totals of a finished (or running) step, and reports if one is due.

        Raises:
          UserError: if too many steps in a row were skipped.
        """
        if self._totals and self._step % self._log_steps == 0:
            self.flush()
        self._step = step
        self._totals.append(totals)

    def flush(self) -> None:
        """Reports all steps until now; waits for the device."""
        if not self._totals:
            return
        fetched = jax.device_get(self._totals)
        now = time.monotonic()
        seconds = max(now - self._begin, 1e-9)
        tokens = sum(float(totals["tokens"].sum) for totals in fetched)
        means = divide(fetched)
        del means["tokens"], means["skipped"]
        # Where every step was skipped there is no loss to tell.
        values: dict[str, Any] = {name: x for name, x in means.items() if math.isfinite(x)}
        with jax.transfer_guard("allow"):
            learning_rate = float(self._learning_rate(self._step - 1))
        values |= {
            "learning_rate": learning_rate,
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "data_wait_share": self._waited / seconds,
        }
        self._totals, self._begin, self._waited = [], now, 0.0
        if skipped := self._skipped_steps(fetched):
            values["skipped_steps"] = skipped
        self._log.write(self._step, values)
        told = f"loss {values.get('loss', math.nan):.4f}"
        self._log.progress(self._step, f"{told}, {values['tokens_per_second']:,.0f} tokens/s")

    def _skipped_steps(self, fetched: Sequence[Any]) -> list[int]:
        """Names the steps that were skipped.

        Raises:
          UserError: if too many of them were in a row.
        """
        skipped = []
        for step, totals in enumerate(fetched, start=self._step + 1 - len(fetched)):
            if not totals["skipped"].sum:
                self._skipped_in_a_row = 0
                continue
            skipped.append(step)
            self._skipped_in_a_row += 1
            if self._skipped_in_a_row > self._max_skipped:
                raise UserError(
                    f"the last {self._skipped_in_a_row} steps until {step} have a loss or a"
                    " gradient that is no number: lower --config.optimizer.learning_rate, or raise"
                    " its warmup_steps; none of them changed the parameters, and the checkpoints"
                    " are sound"
                )
        if skipped:
            named = ", ".join(map(str, skipped[:10])) + (", ..." if len(skipped) > 10 else "")
            self._log.say(f"skipped, for their loss or gradient is no number: steps {named}")
        return skipped

    def waited(self, seconds: float) -> None:
        """Counts time in which the device had no data."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of the pace: it is not spent on training steps."""
        self.flush()
        begin = time.monotonic()
        yield
        self._begin += time.monotonic() - begin


def divide(totals: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Adds (sum, weight) pairs by name, then divides once.

    Args:
      totals: fetched from the device; at least one.

    Returns:
      The quotients; nan where there was no weight.
    """
    means = {}
    for name in totals[0]:
        weight = sum(float(each[name].weight) for each in totals)
        total = sum(float(each[name].sum) for each in totals)
        means[name] = total / weight if weight else math.nan
    return means
