"""Linear merging: the weighted mean of the models' weights.

    out = sum_i w_i x_i / sum_i w_i

With equal weights it is the model soup of Wortsman et al. (arXiv 2203.05482, section 2) and the merge
that SOLAR 10.7B was released as (arXiv 2312.15166, table 7, Average(0.5, 0.5)).
"""

from collections.abc import Sequence
from math import isfinite

from dusk.errors import SettingError
from dusk.merge.floats import Array


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
    """sum_i w_i x_i in the arrays' own precision; any shape, all the same."""
    total = tensors[0] * tensors[0].dtype.type(weights[0])
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total += tensor * tensor.dtype.type(weight)
    return total
