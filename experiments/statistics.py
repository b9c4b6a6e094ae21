"""Means over seeds, and differences between variants, with what can be concluded from them."""

import enum
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95


class Verdict(enum.Enum):
    """What a difference to the base says."""

    BETTER = "better"
    WORSE = "worse"
    OPEN = "not enough seeds to tell"


class Estimate(NamedTuple):
    """A mean of a few values, which may be differences.

    Attributes:
      mean: of the values.
      half_width: of its 95 % interval by Student's t; nan with fewer than two values.
      values: how many.
    """

    mean: float
    half_width: float
    values: int

    @property
    def is_apart_from_zero(self) -> bool:
        """Whether the interval leaves zero out."""
        return abs(self.mean) > self.half_width  # never where it is nan


def estimate(values: Sequence[float]) -> Estimate:
    """Returns the mean of at least one value and its interval."""
    number = len(values)
    mean = math.fsum(values) / number
    if number < 2:
        return Estimate(mean, math.nan, number)
    variance = math.fsum((value - mean) ** 2 for value in values) / (number - 1)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, number - 1))
    return Estimate(mean, quantile * math.sqrt(variance / number), number)


def paired_difference(ours: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Returns the mean difference over the seeds that both have; None where there is none."""
    seeds = sorted(ours.keys() & base.keys())
    return estimate([ours[seed] - base[seed] for seed in seeds]) if seeds else None


def verdict(difference: Estimate, *, lower_is_better: bool) -> Verdict:
    """Says what a difference to the base shows."""
    if not difference.is_apart_from_zero:
        return Verdict.OPEN
    return Verdict.BETTER if (difference.mean < 0) == lower_is_better else Verdict.WORSE
