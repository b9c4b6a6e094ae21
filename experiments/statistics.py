"""Means over seeds, and differences between variants with their confidence intervals."""

import enum
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8  # chance of seeing the smallest difference that a study is said to see


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
    def p_value(self) -> float:
        """Chance of a mean as far from zero if the true one is zero; 1 with fewer than two values.

        Of the two-sided t-test, which is the paired one where the values are differences.
        """
        if self.values < 2:
            return 1.0
        if not self.half_width:
            return float(not self.mean)
        statistic = self.mean / self.half_width * _quantile(CONFIDENCE, self.values)
        return float(2 * stats.t.sf(abs(statistic), self.values - 1))

    def detectable(self, comparisons: int = 1) -> float:
        """Returns the smallest true mean that the test finds with the chance `POWER`.

        Args:
          comparisons: number of tests that share the error of 1 - `CONFIDENCE`.

        Returns:
          It in the unit of the values, from their spread and number; nan with fewer than two.
        """
        if self.values < 2:
            return math.nan
        freedom = self.values - 1
        critical = _quantile(1 - (1 - CONFIDENCE) / comparisons, self.values)
        # Of the noncentral t-distribution; the other tail is too small to count.
        solution = optimize.root_scalar(
            lambda shift: stats.nct.sf(critical, freedom, shift) - POWER,
            bracket=(0, 4 * critical + 4),
        )
        return float(solution.root) * self.half_width / _quantile(CONFIDENCE, self.values)


def _quantile(confidence: float, values: int) -> float:
    """Returns half the width of an interval of Student's t, in standard errors."""
    return float(stats.t.ppf((1 + confidence) / 2, values - 1))


def estimate(values: Sequence[float]) -> Estimate:
    """Returns the mean of at least one value, with its interval."""
    number = len(values)
    mean = math.fsum(values) / number
    if number < 2:
        return Estimate(mean, math.nan, number)
    variance = math.fsum((value - mean) ** 2 for value in values) / (number - 1)
    return Estimate(mean, _quantile(CONFIDENCE, number) * math.sqrt(variance / number), number)


def paired_difference(ours: Mapping[int, float], base: Mapping[int, float]) -> Estimate | None:
    """Returns the mean difference over the seeds that both have; None if there are none."""
    seeds = sorted(ours.keys() & base.keys())
    return estimate([ours[seed] - base[seed] for seed in seeds]) if seeds else None


def verdicts(differences: Sequence[Estimate], *, lower_is_better: bool) -> list[Verdict]:
    """Returns the conclusions from all differences of a metric.

    That any of them is wrong by chance has a probability of at most 1 - `CONFIDENCE`, by the
    step-down method of Holm (1979).
    """
    found = [Verdict.OPEN] * len(differences)
    by_p_value = sorted(range(len(differences)), key=lambda place: differences[place].p_value)
    for tested, place in enumerate(by_p_value):
        difference = differences[place]
        if difference.p_value * (len(differences) - tested) > 1 - CONFIDENCE:
            break
        better = (difference.mean < 0) == lower_is_better
        found[place] = Verdict.BETTER if better else Verdict.WORSE
    return found
