"""Differences between two models on the same items, with their uncertainty: the paired bootstrap.

A score is the mean over one or several groups of items (the levels of a test, the subjects of MMLU) of each
group's weighted mean. Items are drawn with replacement within each group, the same ones for both models, and
the score's difference is computed again each time.

Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapters 13 and 16; for its use
in comparing systems on one test set, P. Koehn, Statistical Significance Tests for Machine Translation
Evaluation (EMNLP 2004).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

RESAMPLES = 10_000
_DRAWS_AT_ONCE = 4_000_000  # numbers in memory at a time, 32 MB


@dataclass(frozen=True)
class PairedItems:
    """One group's items under two models: `first`, `second` and `weights`, each (n,).

    `share` is the group's weight among the groups of a score.
    """

    first: Array
    second: Array
    weights: Array
    share: float = 1.0


@dataclass(frozen=True)
class Difference:
    """Second minus first, the bounds of its interval, and the two-sided p of no difference."""

    difference: float
    low: float
    high: float
    p: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """The fields by name."""
        return {
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "n": self.n,
        }


def weighted_mean(values: Array, weights: Array) -> float:
    """Sum of weight times value over the sum of weights."""
    return float(values @ weights / weights.sum())


def standard_error(values: Array, weights: Array) -> float:
    """The standard error of a weighted mean; nan for fewer than two items.

    With equal weights it is the sample deviation over the root of n. With others it is the linearised error
    of a ratio of sums, sqrt(n/(n-1) sum w²(x-m)²) / sum w (W. Cochran, Sampling Techniques, 1977, 6.4).
    """
    n = len(values)
    if n < 2:
        return math.nan
    residual = weights * (values - weighted_mean(values, weights))
    return float(math.sqrt(n / (n - 1) * float(residual @ residual)) / weights.sum())


def paired_bootstrap(
    groups: Sequence[PairedItems], *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> Difference:
    """The difference of two models' scores, second minus first, over the same items.

    The interval is the percentile interval of `level`; p is twice the smaller share of resamples on one side
    of zero, at most 1 and at least 2/(resamples + 1). Items that the models answer alike add no uncertainty:
    two equal models give a difference of 0, an interval of width 0 and p = 1.

    Raises:
        ValueError: there is no group, or one without items.
    """
    if not groups or any(len(group.weights) == 0 for group in groups):
        raise ValueError("a paired bootstrap needs at least one item in every group")
    means = [weighted_mean(group.second - group.first, group.weights) for group in groups]
    point = float(np.average(means, weights=[group.share for group in groups]))
    drawn = resampled_differences(groups, resamples=resamples, seed=seed)
    tail = (1 - level) / 2
    low, high = (float(bound) for bound in np.quantile(drawn, [tail, 1 - tail]))
    side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (resamples + 1))
    return Difference(point, low, high, p, sum(len(group.weights) for group in groups))


def resampled_differences(groups: Sequence[PairedItems], *, resamples: int, seed: int = 0) -> Array:
    """The score's difference under each resample, (resamples,); the mean over groups by their shares."""
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for group in groups:
        total += group.share * np.concatenate(list(_of_group(group, resamples, rng)))
    return total / sum(group.share for group in groups)


def _of_group(group: PairedItems, resamples: int, rng: np.random.Generator) -> Iterator[Array]:
    """Weighted mean differences of one group, in pieces that fit into memory."""
    n = len(group.weights)
    weighted = group.weights * (group.second - group.first)
    step = max(1, _DRAWS_AT_ONCE // n)
    for begin in range(0, resamples, step):
        drawn = rng.integers(0, n, size=(min(step, resamples - begin), n))
        yield weighted[drawn].sum(axis=1) / group.weights[drawn].sum(axis=1)
