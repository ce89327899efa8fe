"""Copies in place: layers repeated where they are, evenly over the depth, without a seam to jump back over.

Interposition, as in W. Du et al., Stacking Your Transformers (arXiv 2405.15319), section 3 (G_interleave), and
the interpositional copying of arXiv 2510.08008.
"""

from dusk.errors import LayerMapError
from dusk.layers import LayerMap


def in_place(layers: int, target: int) -> LayerMap:
    """Target layer t from source layer floor((t + 1/2) n / s); raises `LayerMapError` for s at most n."""
    if target <= layers:
        raise LayerMapError(
            f"Repeating {layers} layers in place cannot make {target}.",
            remedy=f"Choose {layers + 1} layers or more.",
        )
    return LayerMap.of([(2 * place + 1) * layers // (2 * target) for place in range(target)], layers)
