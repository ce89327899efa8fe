"""What a merge method is to the runner: what it has to know of a tensor, and how it then combines it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dusk.merge.floats import Array

Totals = NDArray[np.float64]
Combine = Callable[[Sequence[Array]], Array]
"""From the values of one piece in each model to the merged ones; overwrites what it is given."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """How one tensor is combined: in float64, or in float32 where bfloat16's values then round the same.

    `is_linear` where a method fell back to the weighted mean.
    """

    combine: Combine
    is_linear: bool = False
    float32_suffices: bool = False


class Method(Protocol):
    """A merge method with its settings."""

    @property
    def measures(self) -> bool:
        """Whether `choose` needs the totals of `measure`: a pass over the tensor of its own."""

    def measure(self, values: Sequence[Array]) -> Totals:
        """What adds up over the pieces of a tensor."""

    def choose(self, place: float, totals: Totals | None) -> Chosen:
        """How to combine a tensor at this place of the depth (0 to 1), with these totals."""

    def settings(self) -> dict[str, Any]:
        """What `dusk.json` says of it: the method's name and its settings."""


def added(totals: Sequence[Totals]) -> Totals:
    """The sum of these totals, in their order."""
    found: Totals = np.sum(totals, axis=0)
    return found
