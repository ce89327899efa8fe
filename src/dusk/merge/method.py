"""What a merge method is to the runner: what it has to know of a tensor, and how it then combines it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dusk.merge.floats import Values, decode
from dusk.merge.kernels import Bits

Totals = NDArray[Any]
Kind = TypeVar("Kind", bound=np.generic)

_SLICE_ELEMENTS = 1 << 13


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of a tensor before it is read; `place` is its layer's in the depth, 0 to 1."""

    name: str
    elements: int
    place: float


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements `begin` to `begin + count` of one tensor in every model, in memory that the next piece overwrites.

    `bits`: what is stored, (models, count), where all models store bfloat16.
    """

    begin: int
    count: int
    stored: Sequence[NDArray[Any]]
    dtypes: Sequence[str]
    bits: Bits | None
    wide: Values

    def values(self) -> Values:
        """The numbers, decoded anew: (models, count)."""
        for stored, dtype, out in zip(self.stored, self.dtypes, self.wide, strict=True):
            decode(stored, dtype, out)
        return self.wide


@dataclass(frozen=True, slots=True)
class Chosen:
    """How one tensor is combined: from a piece to its merged values, (count,).

    `weights`: where it is the models' weighted sum, (models,). `is_linear`: where a method fell back to that.
    """

    combine: Callable[[Piece], Values]
    weights: Values | None = None
    is_linear: bool = False


class Method(Protocol):
    """A merge method with its settings."""

    @property
    def passes(self) -> int:
        """How often a tensor is measured before it is combined, each time by a pass of its own."""

    def measure(self, piece: Piece, tensor: Tensor, earlier: Sequence[Totals]) -> Totals:
        """What adds up over the pieces of a tensor, in the pass after those with these totals."""

    def choose(self, tensor: Tensor, totals: Sequence[Totals]) -> Chosen:
        """How to combine a tensor with the totals of every pass."""

    def settings(self) -> dict[str, Any]:
        """What `dusk.json` says of it: the method's name and its settings."""


class Unmeasured:
    """A method that needs to know nothing of a tensor's values."""

    passes = 0

    def measure(self, piece: Piece, tensor: Tensor, earlier: Sequence[Totals]) -> Totals:
        """Never called."""
        raise NotImplementedError


def slices(rows: Sequence[NDArray[Kind]] | NDArray[Kind]) -> Iterator[list[NDArray[Kind]]]:
    """Rows of one size, by slices so short that what is computed on the way costs no new pages of memory."""
    for begin in range(0, rows[0].size, _SLICE_ELEMENTS):
        yield [row[begin : begin + _SLICE_ELEMENTS] for row in rows]


def added(totals: Sequence[Totals]) -> Totals:
    """The sum of these totals, in their order."""
    found: Totals = np.sum(totals, axis=0)
    return found
