"""Linear merging: the weighted mean of the models' weights.

    out = sum_i w_i x_i / sum_i w_i

With equal weights it is the model soup of Wortsman et al. (arXiv 2203.05482, section 2) and the merge
that SOLAR 10.7B was released as (arXiv 2312.15166, table 7, Average(0.5, 0.5)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import frexp, isfinite
from typing import Any

import numpy as np

from dusk.errors import SettingError
from dusk.merge.floats import Array
from dusk.merge.gradient import Gradient, at
from dusk.merge.method import Chosen, Piece, Tensor, Totals, Unmeasured

_LEAST_FLOAT32 = 2.0**-16  # the least bfloat16 times this is the least float32


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum; raises `SettingError` when that cannot be."""
    total = sum(weights)
    if not all(isfinite(weight) for weight in weights) or total == 0 or not isfinite(total):
        raise SettingError(
            f"The weights {', '.join(f'{w:g}' for w in weights)} have no mean.",
            remedy="They must be finite, and their sum not 0.",
        )
    return [weight / total for weight in weights]


def weighted_sum(tensors: Sequence[Array], weights: Sequence[float]) -> Array:
    """sum_i w_i x_i in the arrays' own precision; any shape, all the same. Overwrites the arrays."""
    for tensor, weight in zip(tensors, weights, strict=True):
        np.multiply(tensor, tensor.dtype.type(weight), out=tensor)
    total = tensors[0]
    for tensor in tensors[1:]:
        np.add(total, tensor, out=total)
    return total


def _sum_of_piece(piece: Piece, weights: Sequence[float]) -> Array:
    return weighted_sum(piece.values, weights)


def summed(weights: Sequence[float], *, is_linear: bool = False) -> Chosen:
    """The weighted sum, in float32 where one of bfloat16 is then rounded as from the exact sum.

    That holds for two terms with powers of two for weights, such as the plain mean: the products are exact,
    and a sum of two numbers of p bits, rounded to 2p + 2 bits or more and then to p, is rounded as at once
    (Figueroa 1995, "When is double rounding innocuous?").
    """
    felt = [abs(weight) for weight in weights if weight]
    powers = all(frexp(weight)[0] == 0.5 and _LEAST_FLOAT32 <= weight <= 1 for weight in felt)
    return Chosen(partial(_sum_of_piece, weights=weights), is_linear, powers and len(felt) <= 2)


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
