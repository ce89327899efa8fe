"""Linear merging: the weighted mean of the models' weights.

    out = sum_i w_i x_i / sum_i w_i

With equal weights it is the model soup of Wortsman et al. (arXiv 2203.05482, section 2) and the merge
that SOLAR 10.7B was released as (arXiv 2312.15166, table 7, Average(0.5, 0.5)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import numpy as np

from dusk.errors import SettingError
from dusk.merge.floats import Values
from dusk.merge.gradient import Gradient, at
from dusk.merge.method import Chosen, Piece, Tensor, Totals, Unmeasured


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum; raises `SettingError` when that cannot be."""
    total = sum(weights)
    if not all(isfinite(weight) for weight in weights) or total == 0 or not isfinite(total):
        raise SettingError(
            f"The weights {', '.join(f'{w:g}' for w in weights)} have no mean.",
            remedy="They must be finite, and their sum not 0.",
        )
    return [weight / total for weight in weights]


def summed(weights: Sequence[float], *, is_linear: bool = False) -> Chosen:
    """The sum of the models' values times these weights."""
    return Chosen(partial(_weighted_sum, weights=weights), np.array(weights, float), is_linear)


def _weighted_sum(piece: Piece, weights: Sequence[float]) -> Values:
    first, *others = piece.values()
    total: Values = np.multiply(first, weights[0], out=first)
    for values, weight in zip(others, weights[1:], strict=True):
        np.add(total, np.multiply(values, weight, out=values), out=total)
    return total


@dataclass(frozen=True)
class Linear(Unmeasured):
    """The mean with these weights, one gradient a model; divided by their sum at every place."""

    weights: tuple[Gradient, ...]

    def choose(self, tensor: Tensor, totals: Sequence[Totals]) -> Chosen:
        """The weights at this place."""
        return summed(normalised([at(w, tensor.place) for w in self.weights]))

    def settings(self) -> dict[str, Any]:
        """The weights as they apply: divided by their sum where they do not change with depth."""
        if all(len(weight) == 1 for weight in self.weights):
            return {"method": "linear", "weights": normalised([weight[0] for weight in self.weights])}
        return {"method": "linear", "weights": [list(weight) for weight in self.weights]}
