"""Block expansion: after each of P equal groups of layers its last one again, as an identity block.

C. Wu et al., LLaMA Pro (arXiv 2401.02415), section 3.2. The grown model computes what the base does; the paper
then trains the new blocks alone.
"""

from dusk.errors import LayerMapError
from dusk.layers import LayerMap


def llama_pro(layers: int, target: int) -> LayerMap:
    """P = s - n groups of n/P layers; raises `LayerMapError` where P does not divide n."""
    groups = target - layers
    if groups < 1 or layers % groups:
        sizes = [layers + divisor for divisor in range(1, layers + 1) if layers % divisor == 0]
        raise LayerMapError(
            f"Block expansion of {layers} layers cannot make {target}: the groups would not be equal.",
            remedy=f"It can make {', '.join(map(str, sizes))} layers.",
        )
    return LayerMap.interleave_identity(layers, groups)
