"""What a merge method is to the runner: what it has to know of a tensor, and how it then combines it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dusk.merge.floats import Array

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
    """Elements `begin` to `begin + count` of one tensor in every model.

    `values` are of one shape and in one order: float64, or float32 where that was asked for. Where all models
    store bfloat16 they are `paired`: (2, words), elements of even places, then of odd ones; a zero that belongs
    to no element may then come last. The arrays are overwritten when the next piece is read.
    """

    begin: int
    count: int
    values: list[Array]
    paired: bool


Combine = Callable[[Piece], Array]
"""From one piece in each model to the merged values; overwrites what it is given."""

Narrow = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class InFloat32:
    """A faster way for tensors that all models store in bfloat16.

    `combine` gets the values of every model, which it overwrites, and an array like them to work in. What it
    returns is off by at most `doubt` units in the last place; 0 says that it rounds to bfloat16 as the exact
    value does. Where a doubt leaves the rounding open, the value is computed again in float64.
    """

    combine: Callable[[Sequence[Narrow], Narrow], Narrow]
    doubt: int


@dataclass(frozen=True, slots=True)
class Chosen:
    """How one tensor is combined, in float64; `is_linear` where a method fell back to the weighted mean."""

    combine: Combine
    is_linear: bool = False
    in_float32: InFloat32 | None = None


class Method(Protocol):
    """A merge method with its settings."""

    @property
    def passes(self) -> int:
        """How often a tensor is measured before it is combined, each time by a pass of its own."""

    def measure(self, values: Sequence[Array], tensor: Tensor, earlier: Sequence[Totals]) -> Totals:
        """What adds up over the pieces of a tensor, in the pass after those with these totals."""

    def choose(self, tensor: Tensor, totals: Sequence[Totals]) -> Chosen:
        """How to combine a tensor with the totals of every pass."""

    def settings(self) -> dict[str, Any]:
        """What `dusk.json` says of it: the method's name and its settings."""


class Unmeasured:
    """A method that needs to know nothing of a tensor's values."""

    passes = 0

    def measure(self, values: Sequence[Array], tensor: Tensor, earlier: Sequence[Totals]) -> Totals:
        """Never called."""
        raise NotImplementedError


def slices(values: Sequence[NDArray[Kind]]) -> Iterator[list[NDArray[Kind]]]:
    """Arrays of one size, by slices so short that what is computed on the way costs no new pages of memory."""
    flat = [value.reshape(-1) for value in values]
    for begin in range(0, flat[0].size, _SLICE_ELEMENTS):
        yield [value[begin : begin + _SLICE_ELEMENTS] for value in flat]


def added(totals: Sequence[Totals]) -> Totals:
    """The sum of these totals, in their order."""
    found: Totals = np.sum(totals, axis=0)
    return found
