"""Task arithmetic (Ilharco et al., arXiv 2212.04089, section 2): the models' differences from their base, added.

    out = x_0 + sum_i w_i (x_i - x_0)

Computed as one weighted sum, with 1 - sum_i w_i for the base x_0. A negative weight takes a task away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dusk.merge.gradient import Gradient, at, told
from dusk.merge.linear import summed
from dusk.merge.method import Chosen, Tensor, Totals, Unmeasured


@dataclass(frozen=True)
class TaskArithmetic(Unmeasured):
    """The scale of each task vector, one gradient a model; the base is the last of the tensors."""

    weights: tuple[Gradient, ...]

    def choose(self, tensor: Tensor, totals: Sequence[Totals]) -> Chosen:
        """The weights at this place, and what is left for the base."""
        weights = [at(weight, tensor.place) for weight in self.weights]
        return summed((*weights, 1 - sum(weights)))

    def settings(self) -> dict[str, Any]:
        """The weights: a number a model, or its values over the depth."""
        return {"method": "task-arithmetic", "weights": [told(weight) for weight in self.weights]}
