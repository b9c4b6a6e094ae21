"""Summary of a study: a row for each variant, and curves."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from bert_jax.errors import UserError
from bert_jax.stopping import RESTART_STATUS
from experiments.folder import StudyFolder
from experiments.latency import Latency, read_latencies
from experiments.measures import Cost, Measured, lower_is_better, measure
from experiments.statistics import Estimate, Verdict, estimate, paired_difference, verdicts
from experiments.study import Plan, Run, Variant

Curve = Sequence[tuple[float, float]]  # (step, value): means over the seeds


@dataclasses.dataclass(frozen=True)
class Cell:
    """One metric of a variant.

    Attributes:
      by_seed: its value for each seed.
      mean: over the seeds.
      difference: to the other variant, over the seeds that both have; None without any.
      verdict: conclusion from the difference and those of all other variants; None without one.
      examples: number of labelled examples learned from; 0 if it is not known.
      detectable: the smallest true difference that the study would have been likely to see; nan
        from fewer than two seeds.
    """

    by_seed: Mapping[int, float]
    mean: Estimate
    examples: int = 0
    difference: Estimate | None = None
    verdict: Verdict | None = None
    detectable: float = math.nan


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
      name: of the variant.
      against: name of the variant with which it is compared; '': with none, as the base.
      changes: its overrides.
      cells: by metric, for those that it has.
      done: number of finished runs.
      runs: number of all its runs.
      failed: number of failed runs.
      collapsed: number of tasks that ended no better than the majority-class baseline.
      cost: of the finished runs.
    """

    name: str
    against: str
    changes: tuple[str, ...]
    cells: Mapping[str, Cell]
    done: int
    runs: int
    failed: int
    collapsed: int
    cost: Cost


@dataclasses.dataclass(frozen=True)
class Summary:
    """Contents of a report.

    Attributes:
      plan: of the study.
      metrics: all metrics; the main ones come first.
      main: the main metric of each stage.
      rows: in the order of the study, the base among them.
      shared: cost of the runs that all variants share.
      curves: metric -> variant -> its values over the steps.
      latencies: of the variants that `experiments.latency` measured.
    """

    plan: Plan
    metrics: Sequence[str]
    main: Sequence[str]
    rows: Sequence[Row]
    shared: Cost
    curves: Mapping[str, Mapping[str, Curve]]
    latencies: Mapping[str, Latency]


def summarise(folder: StudyFolder) -> Summary:
    """Reads the folder of a study, finished or not.

    Raises:
      UserError: if it has no study, or no run is finished.
    """
    plan = folder.read_plan()
    trained = [run for run in plan.runs if run.driver != "prepare"]
    measured = {run.name: measure(folder, run) for run in trained if folder.is_done(run)}
    if not measured:
        raise UserError(f"no run of {folder.path} is finished: wait, or run launch.sweep again")
    names = [variant.name for variant in plan.variants]
    # A run that all variants share does not distinguish them.
    shared = [run for run in trained if len(names) > 1 and set(run.variants) == set(names)]
    own = {
        variant.name: [
            run
            for run in trained
            if variant.name in run.variants and run not in shared and _is_of(run, variant)
        ]
        for variant in plan.variants
    }
    values = {name: _values(runs, measured) for name, runs in own.items()}
    chosen = {each.metric for each in measured.values()}
    found = dict.fromkeys(metric for of in values.values() for metric in of)
    rows = _judged([_row(plan, folder, name, own[name], values, measured) for name in names])
    return Summary(
        plan=plan,
        metrics=sorted(found, key=lambda metric: metric not in chosen),
        main=[metric for metric in found if metric in chosen],
        rows=rows,
        shared=_cost(shared, measured),
        curves=_curves(own, measured),
        latencies=read_latencies(folder),
    )


def _is_of(run: Run, variant: Variant) -> bool:
    """Returns True unless a variant takes nothing but the tokenizer from a pretraining."""
    return variant.takes_parameters or run.stage != "pretrain"


def _values(runs: Sequence[Run], measured: Mapping[str, Measured]) -> dict[str, dict[int, float]]:
    """Returns metric -> seed -> value."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for run in runs:
        if run.name in measured:
            for metric, value in measured[run.name].values.items():
                values[metric][run.seed] = value
    return values


def _row(
    plan: Plan,
    folder: StudyFolder,
    name: str,
    runs: Sequence[Run],
    values: Mapping[str, Mapping[str, Mapping[int, float]]],
    measured: Mapping[str, Measured],
) -> Row:
    variant = plan.variant(name)
    other = plan.against(variant)
    cells, of_runs = {}, [measured[run.name] for run in runs if run.name in measured]
    for metric, by_seed in values[name].items():
        # With the same pretraining there is no difference in its metrics; and with other tokens
        # they are not of the same things.
        alike = variant.pretraining == other.pretraining or variant.prepare != other.prepare
        apart = other is variant or (metric.startswith("pretrain/") and alike)
        theirs = {} if apart else values[other.name].get(metric, {})
        mean = estimate(list(by_seed.values()))
        examples = max(m.examples for m in of_runs if metric in m.values)
        cells[metric] = Cell(by_seed, mean, examples, paired_difference(by_seed, theirs))
    return Row(
        name=name,
        against="" if other is variant else other.name,
        changes=variant.changes,
        cells=cells,
        done=len(of_runs),
        runs=len(runs),
        failed=sum(_has_failed(folder, run) for run in runs),
        collapsed=sum(each.collapsed for each in of_runs),
        cost=_cost(runs, measured),
    )


def _judged(rows: Sequence[Row]) -> list[Row]:
    """Adds verdicts: those of a metric hold for all its comparisons together."""
    compared: dict[str, dict[str, Estimate]] = defaultdict(dict)
    for row in rows:
        for metric, cell in row.cells.items():
            if cell.difference is not None:
                compared[metric][row.name] = cell.difference
    cells = {row.name: dict(row.cells) for row in rows}
    for metric, differences in compared.items():
        found = verdicts(list(differences.values()), lower_is_better=lower_is_better(metric))
        for (name, difference), shown in zip(differences.items(), found, strict=True):
            cells[name][metric] = dataclasses.replace(
                cells[name][metric],
                verdict=shown,
                detectable=difference.detectable(len(differences)),
            )
    return [dataclasses.replace(row, cells=cells[row.name]) for row in rows]


def _has_failed(folder: StudyFolder, run: Run) -> bool:
    statuses = [attempt.status for attempt in folder.attempts(run)]
    return bool(statuses) and 0 not in statuses and statuses[-1] not in (RESTART_STATUS, None)


def _cost(runs: Sequence[Run], measured: Mapping[str, Measured]) -> Cost:
    return sum((measured[run.name].cost for run in runs if run.name in measured), Cost())


def _curves(
    own: Mapping[str, Sequence[Run]], measured: Mapping[str, Measured]
) -> dict[str, dict[str, Curve]]:
    """Averages each evaluation over the finished seeds.

    Seeds pack an epoch into different numbers of rows, so their evaluations, of which there is one
    an epoch, may be at different steps.
    """
    curves: dict[str, dict[str, Curve]] = defaultdict(dict)
    for name, runs in own.items():
        seeds: dict[str, list[Sequence[tuple[int, float]]]] = defaultdict(list)
        for run in runs:
            if run.name in measured:
                for metric, curve in measured[run.name].curves.items():
                    seeds[metric].append(curve)
        for metric, each in seeds.items():
            # A seed that stopped early has fewer evaluations.
            evaluations = zip(*each, strict=False)
            curves[metric][name] = [
                (fmean(step for step, _ in points), fmean(value for _, value in points))
                for points in evaluations
            ]
    return curves
