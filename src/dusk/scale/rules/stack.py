"""Stacking: the whole base on itself.

W. Du et al., Stacking Your Transformers (arXiv 2405.15319), section 3: G_stack, which grows a model early in its
training; m = 0 of depth up-scaling, with the largest seam there is.
"""

from dusk.errors import LayerMapError
from dusk.layers import LayerMap


def stack(layers: int, target: int) -> LayerMap:
    """Source layers `0..n-1`, s/n times; raises `LayerMapError` where s is no multiple of n."""
    times, over = divmod(target, layers)
    if over or times < 2:
        raise LayerMapError(
            f"Stacking {layers} layers cannot make {target}.",
            remedy=f"The nearest are {max(2, times) * layers} and {(max(2, times) + 1) * layers} layers.",
        )
    return LayerMap.stack(layers, times)
