"""Metrics and costs of a study's runs, read from their logs."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bert_jax.training.logs import LOG_FILE, STARTS_FILE, read_log
from experiments.folder import StudyFolder
from experiments.study import Run

_HELD_OUT = "heldout_"
_PAUSES = ("evaluation_seconds", "checkpoint_seconds")
_SHARES = "_share"  # shares of labels describe the data, not the model


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of runs: training, evaluations and checkpoints, without starting.

    Attributes:
      device_seconds: of all devices together.
      tokens: number trained on, without padding.
      flops: model FLOPs of these tokens.
    """

    device_seconds: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Returns the sum of two costs."""
        return Cost(
            self.device_seconds + other.device_seconds,
            self.tokens + other.tokens,
            self.flops + other.flops,
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """Results of a finished run.

    Attributes:
      metric: the main metric of the run.
      values: metric -> value at the end of a pretraining, or at the best epoch of a task.
      curves: metric -> (step, value) of each evaluation.
      collapsed: True if it ended no better than the majority-class baseline.
      examples: number of labelled examples that a task learned from; 0 if the log does not tell.
      cost: of the run.
    """

    metric: str
    values: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    collapsed: bool
    examples: int
    cost: Cost


def lower_is_better(metric: str) -> bool:
    """Returns True if smaller values of a metric are better."""
    return metric.endswith("loss")


def measure(folder: StudyFolder, run: Run) -> Measured:
    """Reads the logs of a finished run; its metrics are named STAGE/METRIC."""
    directory = folder.path / run.name
    entries = read_log(directory / LOG_FILE)
    starts = directory / STARTS_FILE
    devices = read_log(starts)[-1]["devices"] if starts.exists() else 1
    prefix, chosen = _HELD_OUT, None
    if run.driver in ("finetune", "linear"):
        chosen = next(entry for entry in entries if "metric" in entry)
        prefix = "dev_"
    evaluated = [entry for entry in entries if any(name.startswith(prefix) for name in entry)]
    last = evaluated[-1]
    if chosen:  # as finetune does: the latest of the best epochs
        last = max(reversed(evaluated), key=lambda entry: entry[chosen["metric"]])
    names = [n for n in last if n.startswith(prefix) and not n.endswith(_SHARES)]

    return Measured(
        metric=_called(run, chosen["metric"] if chosen else "mlm_loss"),
        values={_called(run, name): last[name] for name in names},
        curves={
            _called(run, name): [
                (entry["step"], entry[name]) for entry in evaluated if name in entry
            ]
            for name in names
        },
        collapsed=bool(chosen) and last[chosen["metric"]] <= chosen["floor"],
        examples=chosen.get("examples", 0) if chosen else 0,
        cost=cost_of(entries, devices),
    )


def _called(run: Run, name: str) -> str:
    return f"{run.stage}/{name.removeprefix(_HELD_OUT).removeprefix('dev_')}"


def cost_of(entries: Iterable[Mapping[str, Any]], devices: int) -> Cost:
    """Returns the cost of a run, from the entries of its log and its number of devices."""
    seconds = tokens = flops = 0.0
    for entry in entries:
        if "tokens_per_second" in entry:
            trained = entry["tokens"] / entry["tokens_per_second"]
            tokens += entry["tokens"]
            flops += entry["model_flops_per_second"] * trained
            seconds += trained
        seconds += sum(v for name, v in entry.items() if name in _PAUSES)
    return Cost(seconds * devices, tokens, flops)
