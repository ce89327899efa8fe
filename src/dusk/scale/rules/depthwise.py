"""Depth up-scaling: the base without its last m layers, then the base without its first m.

S. Kim et al., SOLAR 10.7B (arXiv 2312.15166), section 2, figure 1: s = 2(n - m).
"""

from dusk.layers import LayerMap


def depthwise(layers: int, target: int) -> LayerMap:
    """Source layers `0..n-m-1`, then `m..n-1`, with m = n - s/2; an odd size drops one more of the copy."""
    return LayerMap.to_depth(layers, target)
