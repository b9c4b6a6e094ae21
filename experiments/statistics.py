"""Means over seeds, and differences between variants with their confidence intervals."""

import enum
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95


class Verdict(enum.Enum):
    """Conclusion from a difference to the base."""

    BETTER = "better"
    WORSE = "worse"
    OPEN = "not enough seeds to tell"


class Estimate(NamedTuple):
    """A mean of a few values, which may be differences.

    Attributes:
      mean: of the values.
      half_width: of its 95 % confidence interval by Student's t; nan with fewer than two values.
      values: number of values.
    """

    mean: float
    half_width: float
    values: int

    @property
    def is_apart_from_zero(self) -> bool:
        """Returns True if the interval does not contain zero."""
        return abs(self.mean) > self.half_width  # False if it is nan


def estimate(values: Sequence[float]) -> Estimate:
    """Returns the mean of at least one value, with its interval."""
    number = len(values)
    mean = math.fsum(values) / number
    if number < 2:
        return Estimate(mean, math.nan, number)
    variance = math.fsum((value - mean) ** 2 for value in values) / (number - 1)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, number - 1))
    return Estimate(mean, quantile * math.sqrt(variance / number), number)


def paired_difference(ours: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Returns the mean difference over the seeds that both have; None if there are none."""
    seeds = sorted(ours.keys() & base.keys())
    return estimate([ours[seed] - base[seed] for seed in seeds]) if seeds else None


def verdict(difference: Estimate, *, lower_is_better: bool) -> Verdict:
    """Returns the conclusion from a difference to the base."""
    if not difference.is_apart_from_zero:
        return Verdict.OPEN
    return Verdict.BETTER if (difference.mean < 0) == lower_is_better else Verdict.WORSE
