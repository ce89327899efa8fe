"""Linear merging: the weighted mean of the models' weights.

    out = sum_i w_i x_i / sum_i w_i

With equal weights it is the model soup of Wortsman et al. (arXiv 2203.05482, section 2) and the merge
that SOLAR 10.7B was released as (arXiv 2312.15166, table 7, Average(0.5, 0.5)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import frexp, isfinite, ldexp
from typing import Any, TypeVar

import numpy as np

from dusk.errors import SettingError
from dusk.merge.floats import Array
from dusk.merge.gradient import Gradient, at
from dusk.merge.method import Chosen, InFloat32, Narrow, Piece, Tensor, Totals, Unmeasured

T = TypeVar("T", bound=Array)

_LEAST = 2.0**-16  # the least bfloat16 times this is the least float32
_MOST = 16.0  # errors of float32's least numbers grow by this
_DOUBT = 64  # units in the last place of float32; a thousandth of the values is then computed again
_LEAST_LEFT = 2.0**-21  # cancellation to this costs 32 units


def normalised(weights: Sequence[float]) -> list[float]:
    """The weights divided by their sum; raises `SettingError` when that cannot be."""
    total = sum(weights)
    if not all(isfinite(weight) for weight in weights) or total == 0 or not isfinite(total):
        raise SettingError(
            f"The weights {', '.join(f'{w:g}' for w in weights)} have no mean.",
            remedy="They must be finite, and their sum not 0.",
        )
    return [weight / total for weight in weights]


def weighted_sum(tensors: Sequence[T], weights: Sequence[float]) -> T:
    """sum_i w_i x_i in the arrays' own precision; any shape, all the same. Overwrites the arrays."""
    for tensor, weight in zip(tensors, weights, strict=True):
        np.multiply(tensor, tensor.dtype.type(weight), out=tensor)
    total = tensors[0]
    for tensor in tensors[1:]:
        np.add(total, tensor, out=total)
    return total


def summed(weights: Sequence[float], *, is_linear: bool = False) -> Chosen:
    """The weighted sum, in float32 where that is as good."""
    combine = partial(_sum_of_piece, weights=weights)
    return Chosen(combine, is_linear, _by_powers_of_two(weights) or _by_ratio(weights))


def _sum_of_piece(piece: Piece, weights: Sequence[float]) -> Array:
    return weighted_sum(piece.values, weights)


def _by_powers_of_two(weights: Sequence[float]) -> InFloat32 | None:
    """Two terms with powers of two for weights, such as the plain mean: rounded as from the exact sum.

    The products are exact, and a sum of two numbers of p bits, rounded to 2p + 2 bits or more and then to p,
    is rounded as at once (Figueroa 1995, "When is double rounding innocuous?").
    """
    felt = [abs(weight) for weight in weights if weight]
    if len(felt) > 2 or not all(frexp(weight)[0] == 0.5 and _LEAST <= weight <= 1 for weight in felt):
        return None

    def combine(values: Sequence[Narrow], spare: Narrow) -> Narrow:
        return weighted_sum(values, weights)

    return InFloat32(combine, doubt=0)


def _by_ratio(weights: Sequence[float]) -> InFloat32 | None:
    """Two terms as v (x + r y), |r| at most 1: off by few units in the last place, also where they cancel.

    r is the sum of `upper`, of 16 bits, and `lower`. The products of `upper` are exact, and so is x + upper y
    where it cancels (Sterbenz). The other roundings add up to 4 units, and 2^-16 units times |r y| / |x + r y|,
    which r alone bounds, for x and y have 8 bits; not by enough for small fractions such as 2/3.
    """
    if len(weights) != 2 or not all(_LEAST <= abs(weight) <= _MOST for weight in weights):
        return None
    first = int(abs(weights[0]) < abs(weights[1]))
    factor, ratio = weights[first], weights[1 - first] / weights[first]
    fraction, exponent = frexp(ratio)
    upper = ldexp(round(ldexp(fraction, 16)), exponent - 16)
    lower = ratio - upper
    if lower and _least_left(ratio) < _LEAST_LEFT:
        return None

    def combine(values: Sequence[Narrow], spare: Narrow) -> Narrow:
        x, y = values[first], values[1 - first]
        total = y if upper == 1 else np.multiply(y, np.float32(upper), out=spare)
        np.add(x, total, out=total)
        if lower:
            np.add(total, np.multiply(y, np.float32(lower), out=y), out=total)
        return np.multiply(total, np.float32(factor), out=total)

    return InFloat32(combine, _DOUBT)


def _least_left(ratio: float) -> float:
    """The least |x + r y| / |r y| of all x and y of 8 bits."""
    products = np.ldexp(np.frexp(abs(ratio) * np.arange(128.0, 256.0))[0], 8)  # 128 and more
    return float(np.min(np.abs(products - np.rint(products)) / products))


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
