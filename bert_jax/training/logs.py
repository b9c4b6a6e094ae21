"""The logs of a run: JSON lines, TensorBoard, and the terminal."""

import contextlib
import functools
import json
import math
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import bert_jax
from bert_jax.distributed.chips import find_chip
from bert_jax.files import write_atomically
from bert_jax.training.loss_watch import LossWatch

LOG_FILE, STARTS_FILE = "log.jsonl", "starts.jsonl"


class RunLog:
    """Writes WORKDIR/log.jsonl, TensorBoard events, and a progress line on stderr.

    On a terminal the line is a bar; elsewhere each report is a line of its own.
    """

    def __init__(self, workdir: pathlib.Path, *, first_step: int, steps: int) -> None:
        """Opens the log, and drops the lines of steps that will be run again."""
        self._path = workdir / LOG_FILE
        _drop_lines_after(self._path, first_step)
        self._file = self._path.open("a", buffering=1)
        self._board_folder = workdir / "tensorboard"
        self._steps = steps
        self._bar = tqdm(
            total=steps, initial=first_step, unit="step", disable=None, dynamic_ncols=True
        )
        self._first_step, self._begin = first_step, time.monotonic()

    @functools.cached_property
    def _board(self) -> Any:
        """The writer of TensorBoard's events; opened late, for it imports PyTorch if it can."""
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(self._board_folder), purge_step=self._first_step + 1)

    def record(self, step: int, values: dict[str, Any]) -> None:
        """Records values of a step in the JSON lines alone."""
        self._file.write(json.dumps({"step": step} | values) + "\n")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Records values of a step; what is not a number goes into the JSON lines alone."""
        self.record(step, values)
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)

    def progress(self, step: int, text: str) -> None:
        """Shows the progress of the run and the time left."""
        if self._bar.disable:
            done = max(step - self._first_step, 1)
            left = (time.monotonic() - self._begin) / done * (self._steps - step)
            print(f"step {step:,}/{self._steps:,} {text}, {duration(left)} left", file=sys.stderr)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def message(self, text: str) -> None:
        """Prints a line without disturbing the progress bar."""
        self._bar.write(text, file=sys.stderr)

    def started(self, clock: "StartClock", state: Any, more: dict[str, str] | None = None) -> None:
        """Waits for the first step, and records where the time until then went, and `more`.

        Each start has a line of its own in WORKDIR/starts.jsonl.
        """
        jax.block_until_ready(state)
        clock.mark("first step")
        self.message(clock.describe())
        entry = {
            "step": self._first_step,
            "time": time.time(),
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "seconds": clock.parts,
            **(more or {}),
        }
        with self._path.with_name(STARTS_FILE).open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._board.flush()  # opened now, it delays the first report, as compiling does

    def held_out(self, step: int, means: dict[str, float]) -> None:
        """Records and shows the results of an evaluation."""
        self.write(step, {f"heldout_{name}": value for name, value in means.items()})
        # The loss before the accuracy; compiled steps return their totals by name.
        shown = sorted(means, key=lambda name: (name.partition("_")[0], "loss" not in name))
        pairs = (f"{name} {means[name]:.4f}" for name in shown if "share" not in name)
        self.message(f"step {step:,} held out: {' '.join(pairs)}")

    def close(self) -> None:
        """Finishes the files and the bar."""
        self._bar.close()
        self._file.close()
        if "_board" in vars(self):
            self._board.close()


class SilentLog(RunLog):
    """The log of a process that is not the first: it writes nothing."""

    def __init__(self) -> None:
        """Opens nothing."""

    def record(self, step: int, values: dict[str, Any]) -> None:
        """Records nothing."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Records nothing."""

    def progress(self, step: int, text: str) -> None:
        """Shows nothing."""

    def message(self, text: str) -> None:
        """Shows nothing."""

    def started(self, clock: "StartClock", state: Any, more: dict[str, str] | None = None) -> None:
        """Records nothing."""

    def close(self) -> None:
        """Has nothing to finish."""


def open_log(workdir: pathlib.Path, *, first_step: int, steps: int) -> RunLog:
    """Opens the log of a run, which process 0 writes."""
    if jax.process_index():
        return SilentLog()
    return RunLog(workdir, first_step=first_step, steps=steps)


def duration(seconds: float) -> str:
    """Formats a time in at most two units: '1 h 05 min', '42 s'."""
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
        learning_rates: np.ndarray,
        flops_of: Callable[[int], float],
        watch: LossWatch,
    ) -> None:
        """Starts the clock.

        Args:
          log: takes the reports.
          log_steps: between them.
          learning_rates: [S] of each step, to be logged.
          flops_of: a step -> operations of the model for a real token (`flops.py`).
          watch: checks every step.
        """
        self._log, self._log_steps, self._learning_rates = log, log_steps, learning_rates
        self._flops_of, self._watch = flops_of, watch
        self._totals: list[Any] = []  # of the steps since the last report, on the device
        self._step = 0
        self._begin = time.monotonic()
        self._waited = 0.0
        self._pauses: dict[str, float] = {}

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
        means = divide(fetched)
        del means["tokens"], means["skipped"]
        # Where every step was skipped there is no loss to report.
        values: dict[str, Any] = {name: x for name, x in means.items() if math.isfinite(x)}
        values["learning_rate"] = float(self._learning_rates[self._step - 1])
        first = self._step + 1 - len(fetched)
        tokens = [float(np.sum(each["tokens"].sum)) for each in fetched]
        flops = sum(n * self._flops_of(step) for step, n in enumerate(tokens, start=first))
        values |= {"tokens": sum(tokens), **pace(sum(tokens), flops, seconds)}
        values["data_wait_share"] = self._waited / seconds
        values |= self._pause_seconds()
        self._totals, self._begin, self._waited, self._pauses = [], now, 0.0, {}
        found, lines = self._watch.check(first, fetched)
        for line in lines:
            self._log.message(line)
        self._log.write(self._step, values | found)
        summary = f"loss {values.get('loss', math.nan):.4f}"
        self._log.progress(self._step, f"{summary}, {values['tokens_per_second']:,.0f} tokens/s")

    def close(self) -> None:
        """Reports the steps and the pauses since the last report."""
        self.flush()
        if self._pauses:  # the run ends with an evaluation or a checkpoint
            self._log.write(self._step, self._pause_seconds())

    def _pause_seconds(self) -> dict[str, float]:
        return {f"{name}_seconds": spent for name, spent in self._pauses.items()}

    def compiled_again(self, step: int) -> None:
        """Warns of time that was lost: it never happens where shapes and placements are fixed."""
        self._log.write(step, {"compiled_again": 1})
        self._log.message(f"step {step:,} was compiled again, though its batch has a known shape")

    def waited(self, seconds: float) -> None:
        """Counts time in which the device waited for data."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Leaves the time inside out of the pace; the next report tells it as `{what}_seconds`.

        Raises:
          UserError: if the run has learned nothing that could be scored or saved.
        """
        self.flush()
        self._watch.require_learning()
        begin = time.monotonic()
        yield
        spent = time.monotonic() - begin
        self._begin += spent
        self._pauses[what] = self._pauses.get(what, 0.0) + spent


def pace(tokens: float, flops: float, seconds: float) -> dict[str, float]:
    """Returns the throughput of all devices and their peak memory.

    Args:
      tokens: real ones, without padding.
      flops: of the model for them (`model/flops.py`).
      seconds: the time taken.

    Returns:
      `tokens_per_second`, `tokens_per_second_per_device`, `model_flops_per_second`, `memory_bytes`
      (the most so far on a device of this host; on CPU, where devices do not report it, of this
      process), and, where `chips.py` knows the device, `mfu`: the share of its bfloat16 peak.
    """
    devices, device = jax.device_count(), jax.local_devices()[0]
    values = {
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_per_device": tokens / seconds / devices,
        "model_flops_per_second": flops / seconds,
    }
    memory = device.memory_stats() or {}
    in_kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values["memory_bytes"] = float(memory.get("peak_bytes_in_use", in_kibibytes * 1024))
    if chip := find_chip(device.device_kind):
        values["mfu"] = flops / seconds / (devices * chip.flops)
    return values


class StartClock:
    """The breakdown of the time from the start of the process to the end of its first step."""

    def __init__(self) -> None:
        """Counts from the import of this package."""
        self._last = bert_jax.STARTED
        self.parts: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """Books the time since the last mark under `part`."""
        now = time.monotonic()
        self.parts[part] = round(now - self._last, 3)
        self._last = now

    def describe(self) -> str:
        """Returns the breakdown as one line."""
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.parts.items())
        return f"first step done {sum(self.parts.values()):.1f} s after the start: {parts}"


def divide(totals: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Adds (sum, weight) pairs by name, then divides once.

    Args:
      totals: fetched from the device; at least one. Arrays of several runs are added as well.

    Returns:
      The quotients; nan where there was no weight.
    """
    means = {}
    for name in totals[0]:
        weight = sum(float(np.sum(each[name].weight)) for each in totals)
        total = sum(float(np.sum(each[name].sum)) for each in totals)
        means[name] = total / weight if weight else math.nan
    return means
