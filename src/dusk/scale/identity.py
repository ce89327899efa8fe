"""Which tensors to zero so that a block starts as the identity; found by where its norms are.

A pre-norm block computes x + o(attention(norm(x))), then x + down(mlp(norm(x))): with the output
projections zero both terms vanish and the block passes x through (LLaMA Pro, arXiv 2401.02415,
section 3.2). A norm behind the projections rescales a vanishing signal, so such blocks are refused.
"""

from collections.abc import Iterable

from dusk.checkpoint import Checkpoint
from dusk.errors import LayerMapError
from dusk.layers import LayerMap

_OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")
_BLOCK_NORMS = {"input_layernorm", "post_attention_layernorm"}


def zeroed_parts(parts: Iterable[str]) -> list[str] | None:
    """Of a layer's tensors those that must be zero; None for a block that this does not make the identity."""
    names = set(parts)
    modules = {name.rpartition(".")[0] for name in names}
    norms = {module for module in modules if "norm" in module and "." not in module}
    only_mixers = {module.partition(".")[0] for module in modules - norms} == {"self_attn", "mlp"}
    if norms != _BLOCK_NORMS or not only_mixers or not modules.issuperset(_OUTPUTS):
        return None
    return sorted(name for name in names if name.rpartition(".")[0] in _OUTPUTS)


def require_identity(base: Checkpoint, layer_map: LayerMap) -> None:
    """Raises `LayerMapError` when a fresh layer of the map cannot be made the identity."""
    unfit = []
    for layer in sorted({s for s, fresh in zip(layer_map.source, layer_map.fresh, strict=True) if fresh}):
        parts = [
            split[1] for name in base.tensors if (split := base.layout.split(name)) and split[0] == layer
        ]
        if zeroed_parts(parts) is None:
            unfit.append(f"layer {layer} holds {', '.join(sorted(parts))}")
    if unfit:
        raise LayerMapError(
            f"The layers of {base.path} are no pre-norm Llama blocks: zeroed outputs would not make them "
            "the identity.",
            problems=unfit[:3],
            remedy="Use `fresh=copy`.",
        )
