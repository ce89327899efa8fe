"""Spherical linear interpolation of two tensors (Shoemake 1985, "Animating rotation", section 3.3).

    c = <x, y> / (|x| |y|)      theta = arccos c
    out = sin((1-t) theta) / sin theta * x  +  sin(t theta) / sin theta * y

Each tensor is one vector. The weights apply to the tensors as they are, not to the unit vectors. Where
|c| > 0.9995, parallel or opposite, the arc is undefined or as good as straight: the linear
interpolation (1-t) x + t y takes its place. A vector of length up to 1e-8 is not divided by its length,
so that a zero vector is at a right angle to everything. These edge cases are mergekit's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import acos, sin, sqrt
from typing import Any

from dusk.merge.gradient import Gradient, at, told
from dusk.merge.kernels import gram, gram_of_bits
from dusk.merge.linear import summed
from dusk.merge.method import Chosen, Piece, Tensor, Totals

_PARALLEL = 0.9995
_NO_LENGTH = 1e-8


@dataclass(frozen=True, slots=True)
class SlerpWeights:
    """The factors of the two tensors; `is_linear` where the arc was replaced by the straight line."""

    first: float
    second: float
    is_linear: bool


def slerp_weights(t: float, dot: float, first_length: float, second_length: float) -> SlerpWeights:
    """The factors for two vectors of these lengths and this dot product; `t` from 0 (first) to 1."""
    cosine = dot / _divisor(first_length) / _divisor(second_length)
    if not abs(cosine) <= _PARALLEL:
        return SlerpWeights(1 - t, t, True)
    theta = acos(cosine)
    return SlerpWeights(sin((1 - t) * theta) / sin(theta), sin(t * theta) / sin(theta), False)


def _divisor(length: float) -> float:
    return length if length > _NO_LENGTH else 1.0


@dataclass(frozen=True)
class Slerp:
    """The point `t` of the arc from the first model to the second, tensor by tensor."""

    t: Gradient
    passes = 1

    def measure(self, piece: Piece, tensor: Tensor, earlier: Sequence[Totals]) -> Totals:
        """Their dot products with each other and themselves."""
        return gram(piece.values()) if piece.bits is None else gram_of_bits(piece.bits)

    def choose(self, tensor: Tensor, totals: Sequence[Totals]) -> Chosen:
        """The weighted sum with the arc's factors."""
        (products,) = totals
        lengths = sqrt(products[0, 0]), sqrt(products[1, 1])
        factors = slerp_weights(at(self.t, tensor.place), float(products[0, 1]), *lengths)
        return summed((factors.first, factors.second), is_linear=factors.is_linear)

    def settings(self) -> dict[str, Any]:
        """`t`: one number, or the values over the depth."""
        return {"method": "slerp", "t": told(self.t)}
