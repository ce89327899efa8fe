"""The tests' numbers, from losses alone."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

PREFIX_SHARE = 0.4
MIN_K_SHARE = 0.2  # of the tokens, as Shi et al. 2023 settle on


def split_words(text: str) -> tuple[str, int]:
    """The first `ceil(0.4 words)` words of a text, and how many are left."""
    words = text.split()
    kept = math.ceil(PREFIX_SHARE * len(words))
    return " ".join(words[:kept]), len(words) - kept


def share_below(loss: float, neighbours: Sequence[float]) -> float:
    """The share of neighbours that the model finds likelier than the text itself: near 0 for one it has learnt."""
    return sum(other < loss for other in neighbours) / len(neighbours)


def min_k(log_probabilities: npt.NDArray[np.float64], share: float = MIN_K_SHARE) -> float:
    """Min-K% Prob (Shi et al. 2023, "Detecting Pretraining Data from Large Language Models").

    The mean of the lowest `share` of a text's token log-probabilities (tokens,): higher for texts that were seen.
    """
    count = max(1, int(share * len(log_probabilities)))
    return float(np.sort(log_probabilities)[:count].mean())


def roc(seen: Sequence[float], unseen: Sequence[float]) -> list[tuple[float, float]]:
    """The curve (false positives, true positives) of "seen where the score is high", from (0, 0) to (1, 1)."""
    steps = sorted({*seen, *unseen}, reverse=True)
    points = [
        (sum(s >= step for s in unseen) / len(unseen), sum(s >= step for s in seen) / len(seen))
        for step in steps
    ]
    return [(0.0, 0.0), *points]


def area_under(curve: Sequence[tuple[float, float]]) -> float:
    """The area under a curve, by trapezia: the chance that a seen text scores above an unseen one."""
    return sum((right[0] - left[0]) * (left[1] + right[1]) / 2 for left, right in pairwise(curve))


def area_interval(
    seen: Sequence[float],
    unseen: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of the area under the curve, by drawing both kinds of items with replacement.

    The area is the mean over pairs of "the seen one scores higher", half for a tie (Mann and Whitney 1947).
    """
    high, low = np.array(seen)[:, None], np.array(unseen)[None, :]
    wins = (high > low) + 0.5 * (high == low)  # (seen, unseen)
    drawn = np.random.default_rng(seed)
    areas = []
    for _ in range(resamples):
        rows = drawn.integers(0, wins.shape[0], wins.shape[0])
        columns = drawn.integers(0, wins.shape[1], wins.shape[1])
        areas.append(wins[rows][:, columns].mean())
    below, above = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return float(below), float(above)
