"""DARE (Yu et al., arXiv 2311.03099, section 3.1): most of each difference dropped at random, the rest enlarged.

    out = x_0 + sum_i w_i m_i (x_i - x_0) / density,    m_i = 1 with probability `density`, else 0

Drop and rescale, then task arithmetic; the paper's drop rate is 1 - density, x_0 the base. mergekit enlarges by
the ratio of the l1 norms before and after instead, and draws from torch's generator, so that its values differ.

What is kept depends on the seed, the tensor's name, the model's number and the element's place alone: element e
has the e-th 32-bit number of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a
generator that can begin anywhere.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dusk.merge.floats import Values
from dusk.merge.gradient import Gradient, at, told
from dusk.merge.method import Chosen, Piece, Tensor, Totals, Unmeasured, slices

_NUMBERS_A_STEP = 8  # a step of Philox4x64 gives 256 bits


def key_of(seed: int, tensor: str, model: int) -> NDArray[np.uint64]:
    """The key of a tensor's numbers in one model, (2,)."""
    digest = hashlib.sha256(f"{seed}\0{model}\0{tensor}".encode()).digest()
    return np.frombuffer(digest[:16], "<u8").astype(np.uint64)


def numbers(key: NDArray[np.uint64], begin: int, count: int) -> NDArray[np.uint32]:
    """Numbers `begin` to `begin + count` of a key, (count,)."""
    skipped = begin % _NUMBERS_A_STEP
    generator = np.random.Philox(key=key).advance(begin // _NUMBERS_A_STEP)
    drawn = generator.random_raw(-(-(skipped + count) // 2)).astype("<u8").view("<u4")
    return drawn[skipped : skipped + count]


def kept(piece: Piece, key: NDArray[np.uint64], density: float) -> NDArray[np.bool_]:
    """Which elements of a piece stay, (count,)."""
    return numbers(key, piece.begin, piece.count) < ceil(density * 2**32)


@dataclass(frozen=True)
class Dare(Unmeasured):
    """The scale of each task vector and the share that stays of it; the base is the last of the tensors."""

    weights: tuple[Gradient, ...]
    density: Gradient
    seed: int

    def choose(self, tensor: Tensor, totals: Sequence[Totals]) -> Chosen:
        """The sum with the weights at this place."""
        density = at(self.density, tensor.place)
        weights = [at(weight, tensor.place) / density for weight in self.weights]
        keys = [key_of(self.seed, tensor.name, model) for model in range(len(weights))]
        return Chosen(partial(_combine, weights=weights, keys=keys, density=density))

    def settings(self) -> dict[str, Any]:
        """Weights and density (numbers, or values over the depth), and the seed."""
        return {
            "method": "dare",
            "weights": [told(weight) for weight in self.weights],
            "density": told(self.density),
            "seed": self.seed,
        }


def _combine(
    piece: Piece, weights: Sequence[float], keys: Sequence[NDArray[np.uint64]], density: float
) -> Values:
    values, stays = piece.values(), [kept(piece, key, density) for key in keys]
    merged: Values = values[-1]
    for (*models, base), staying in zip(slices(values), slices(stays), strict=True):
        total = np.zeros_like(base)
        for model, weight, stay in zip(models, weights, staying, strict=True):
            np.multiply(np.subtract(model, base, out=model), stay.astype(float), out=model)
            np.add(total, np.multiply(model, weight, out=model), out=total)
        np.add(base, total, out=base)
    return merged
