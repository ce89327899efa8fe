"""Model stock (Jang et al., arXiv 2403.19522, section 4): how far from the base towards the models' mean.

    c = mean over pairs i < j of <x_i - x_0, x_j - x_0> / (|x_i - x_0| |x_j - x_0|)
    t = k c / (1 + (k - 1) c)                                        (equation 6)
    out = t / k * sum_i x_i + (1 - t) x_0

For k models tuned from the base x_0; each tensor is one vector. Differences that are at right angles are
noise, and the base stays; parallel ones are signal, and their mean is taken whole. A product of lengths below
1e-6 is taken as 1e-6, and the base stays where |1 + (k - 1) c| < 1e-6: there no t exists. Both as in mergekit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from dusk.merge.kernels import gram
from dusk.merge.linear import summed
from dusk.merge.method import Chosen, Piece, Tensor, Totals

_LEAST = 1e-6


def interpolation(products: Totals) -> float:
    """t of models whose differences from the base have these dot products, (models, models)."""
    lengths, count = np.sqrt(np.diag(products)), len(products)
    cosines = [
        float(np.clip(products[i, j] / max(lengths[i] * lengths[j], _LEAST), -1, 1))
        for i, j in combinations(range(count), 2)
    ]
    cosine = sum(cosines) / len(cosines)
    divisor = 1 + (count - 1) * cosine
    return 0.0 if abs(divisor) < _LEAST else count * cosine / divisor


@dataclass(frozen=True)
class ModelStock:
    """Every tensor by its own angles; the base is the last of the tensors."""

    passes = 1

    def measure(self, piece: Piece, tensor: Tensor, earlier: Sequence[Totals]) -> Totals:
        """The dot products of the differences from the base."""
        values = piece.values()
        return gram(np.subtract(values[:-1], values[-1], out=values[:-1]))

    def choose(self, tensor: Tensor, totals: Sequence[Totals]) -> Chosen:
        """The weighted sum of models and base."""
        (products,) = totals
        t, count = interpolation(products), len(products)
        return summed((*[t / count] * count, 1 - t))

    def settings(self) -> dict[str, Any]:
        """The method's name: it has no settings."""
        return {"method": "model-stock"}
