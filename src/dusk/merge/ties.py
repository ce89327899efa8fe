"""TIES (Yadav et al., arXiv 2306.01708, section 3.3): trim, elect a sign, and merge what agrees with it.

    d_i = x_i - x_0, 0 where |d_i| is below the k-th largest of its tensor, k = max(1, floor(density n))
    s   = + where sum_i w_i d_i >= 0, else -
    out = x_0 + scaling * sum_i w_i d_i / sum_i w_i, both over the i whose w_i d_i has the sign s

Element by element; x_0 is the base, `scaling` the paper's lambda. Differences are compared in float32, and
those equal to the k-th largest all stay, as in the authors' code; mergekit keeps some k of them. As in mergekit
every tensor is trimmed by itself (the paper trims the model as a whole), and the weights, which the paper has
not, count for the sign, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dusk.merge.floats import Values
from dusk.merge.gradient import Gradient, at, told
from dusk.merge.method import Chosen, Piece, Tensor, Totals, slices
from dusk.merge.selection import kth_largest, lower_counts, magnitude_of, upper_counts


def consensus(
    differences: Sequence[Values], weights: Sequence[float], base: Values, scaling: float
) -> Values:
    """The base moved by the weighted mean of the differences that have the elected sign.

    All of one shape; overwrites the arrays. What is not a number stays none.
    """
    for difference, weight in zip(differences, weights, strict=True):
        np.multiply(difference, weight, out=difference)
    elected = (reduce(np.add, differences) >= 0).astype(float)
    np.subtract(np.multiply(elected, 2, out=elected), 1, out=elected)
    total, divisor = np.zeros_like(base), np.zeros_like(base)
    for difference, weight in zip(differences, weights, strict=True):
        agreeing = np.maximum(np.multiply(difference, elected, out=difference), 0, out=difference)
        np.add(total, agreeing, out=total)
        np.add(divisor, np.multiply(agreeing > 0, weight), out=divisor)
    np.add(divisor, divisor == 0, out=divisor)
    np.multiply(np.divide(total, divisor, out=total), elected, out=total)
    return np.add(base, np.multiply(total, scaling, out=total), out=base)


def trimmed(difference: Values, least: np.float32) -> Values:
    """The difference, 0 where its magnitude is below `least`; overwrites it."""
    magnitudes = difference.astype(np.float32)
    return np.multiply(difference, ~(np.abs(magnitudes, out=magnitudes) < least), out=difference)


def _magnitudes(model: Values, base: Values) -> NDArray[np.float32]:
    """The sizes of the differences; overwrites `model`."""
    difference = np.subtract(model, base, out=model).astype(np.float32, copy=False)
    return np.abs(difference, out=difference)


@dataclass(frozen=True)
class Ties:
    """The weight of each model, how much of each difference stays, and lambda; the base is the last tensor."""

    weights: tuple[Gradient, ...]
    density: Gradient
    scaling: float
    passes = 2

    def measure(self, piece: Piece, tensor: Tensor, earlier: Sequence[Totals]) -> Totals:
        """Counts of the differences' magnitudes, (models, classes): of upper halves, then of lower ones."""
        *models, base = piece.values()
        magnitudes = [_magnitudes(model, base) for model in models]
        if not earlier:
            return np.stack([upper_counts(magnitude) for magnitude in magnitudes])
        uppers = [kth_largest(counts, self._kept(tensor))[0] for counts in earlier[0]]
        return np.stack([lower_counts(m, upper) for m, upper in zip(magnitudes, uppers, strict=True)])

    def choose(self, tensor: Tensor, totals: Sequence[Totals]) -> Chosen:
        """The consensus of the differences above each model's least magnitude."""
        least = []
        for uppers, lowers in zip(*totals, strict=True):
            upper, rest = kth_largest(uppers, self._kept(tensor))
            least.append(magnitude_of(upper, kth_largest(lowers, rest)[0]))
        weights = [at(weight, tensor.place) for weight in self.weights]
        return Chosen(partial(self._combine, least=least, weights=weights))

    def _kept(self, tensor: Tensor) -> int:
        return max(1, int(at(self.density, tensor.place) * tensor.elements))

    def _combine(self, piece: Piece, least: Sequence[np.float32], weights: Sequence[float]) -> Values:
        values = piece.values()
        merged: Values = values[-1]
        for *models, base in slices(values):
            kept = [
                trimmed(np.subtract(model, base, out=model), bound)
                for model, bound in zip(models, least, strict=True)
            ]
            consensus(kept, weights, base, self.scaling)
        return merged

    def settings(self) -> dict[str, Any]:
        """Weights, density and scaling: numbers, or values over the depth."""
        return {
            "method": "ties",
            "weights": [told(weight) for weight in self.weights],
            "density": told(self.density),
            "scaling": self.scaling,
        }
