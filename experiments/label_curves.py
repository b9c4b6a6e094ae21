"""Scores against the number of labels: lines of a study, and the labels that one saves another.

The variants of a series differ in how many labelled examples their tasks learn from. A series with
n labels equals another one with m where the other's line, straight between its points over the
logarithm of the labels, first reaches the same score.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.measures import lower_is_better
from experiments.statistics import estimate
from experiments.summary import Cell, Summary

Line = Sequence[tuple[int, Cell]]  # (labels, scores), labels ascending


class Equal(NamedTuple):
    """The labels with which another series has the score of one with `labels`.

    Attributes:
      labels: of the one.
      low: lower end of the 95 % interval of the other's; its fewest labels if a seed needs fewer.
      mean: geometric mean over the seeds; nan if a seed is beyond an end of the other's line.
      high: upper end; inf if a seed does not reach the score with all labels.
    """

    labels: int
    low: float
    mean: float
    high: float


def label_lines(summary: Summary) -> dict[str, dict[str, Line]]:
    """Returns metric -> series -> its line, for the main metrics of a study that has series."""
    lines: dict[str, dict[str, Line]] = {}
    for metric in summary.main:
        points: dict[str, list[tuple[int, Cell]]] = defaultdict(list)
        for row in summary.rows:
            cell, series = row.cells.get(metric), summary.plan.variant(row.name).series
            if cell and series and cell.examples:
                points[series].append((cell.examples, cell))
        if points:
            lines[metric] = {
                series: sorted(each, key=lambda point: point[0]) for series, each in points.items()
            }
    return lines


def equal_labels(line: Line, other: Line, metric: str) -> list[Equal]:
    """Returns for each point of a line how many labels the other series needs for its score."""
    sign = -1 if lower_is_better(metric) else 1
    found = []
    for labels, cell in line:
        needed = [
            _reached(sign * score, {n: sign * c.by_seed[seed] for n, c in other})
            for seed, score in cell.by_seed.items()
            if all(seed in each.by_seed for _, each in other)
        ]
        if needed:
            found.append(_equal(labels, needed, fewest=other[0][0]))
    return found


def _reached(score: float, line: Mapping[int, float]) -> float:
    """Returns where a line first reaches a score: 0 before its first point, inf if it does not."""
    points = list(line.items())
    if points[0][1] >= score:
        return 0.0
    for (fewer, low), (more, high) in itertools.pairwise(points):
        if high >= score:
            return fewer * (more / fewer) ** ((score - low) / (high - low))
    return math.inf


def _equal(labels: int, needed: Sequence[float], fewest: int) -> Equal:
    if 0.0 in needed or math.inf in needed:
        finite = [max(each, fewest) for each in needed]
        return Equal(labels, min(finite), math.nan, max(finite))
    of_logarithms = estimate([math.log(each) for each in needed])
    low, high = (of_logarithms.mean + s * of_logarithms.half_width for s in (-1, 1))
    return Equal(labels, math.exp(low), math.exp(of_logarithms.mean), math.exp(high))
