"""Which tensors of a block to make constant so that it starts as the identity; found by where its norms are.

A pre-norm block computes x + o(attention(norm(x))), then x + down(mlp(norm(x))), or both at once: with
the output projections and their biases zero the terms vanish and the block passes x through (LLaMA Pro,
arXiv 2401.02415, section 3.2).

A block with norms on its outputs computes x + norm(o(attention(x))). Zero projections make it the
identity too, but the norm divides by the root mean square of what it gets: at zero its slope is
1/sqrt(epsilon). So the norm's own weight is made to vanish: zero, or -1 in norms that multiply by
1 + weight. Its gradient is an ordinary one, and with it the block wakes up.

A post-LN block computes norm(x + ...), the identity for no weights; such a stack has no norm behind it,
which tells it from pre-norm stacks with the same names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dusk.checkpoint import Checkpoint, Layout
from dusk.errors import LayerMapError
from dusk.layers import LayerMap

# The norms of a block, and those of them that lie on its outputs (transformers, modeling_*.py).
_NORMS_ON_OUTPUTS: dict[frozenset[str], frozenset[str]] = {
    frozenset(norms.split()): frozenset(on_outputs.split())
    for norms, on_outputs in (
        ("input_layernorm post_attention_layernorm", ""),  # Llama, Qwen, Mixtral, GPT-NeoX, Phi-3
        ("input_layernorm", ""),  # Phi, Cohere: attention and MLP side by side
        ("input_layernorm pre_ff_layernorm", ""),  # Bamba, Jamba
        ("ln_1 ln_2", ""),  # GPT-2
        ("ln_1", ""),  # GPT-J
        ("ln_attn ln_mlp", ""),  # Falcon
        ("norm_1 norm_2", ""),  # MPT
        ("self_attn_layer_norm final_layer_norm", ""),  # OPT
        ("operator_norm ffn_norm", ""),  # LFM2
        ("layernorm_before layernorm_after", ""),  # ViT
        ("layer_norm1 layer_norm2", ""),  # CLIP, SigLIP
        ("layer_norm", ""),  # T5: one in each part of the block
        # OLMo 2, EXAONE 4
        (
            "post_attention_layernorm post_feedforward_layernorm",
            "post_attention_layernorm post_feedforward_layernorm",
        ),
        # Gemma 2, Gemma 3
        (
            "input_layernorm post_attention_layernorm pre_feedforward_layernorm post_feedforward_layernorm",
            "post_attention_layernorm post_feedforward_layernorm",
        ),
        # GLM-4
        (
            "input_layernorm post_self_attn_layernorm post_attention_layernorm post_mlp_layernorm",
            "post_self_attn_layernorm post_mlp_layernorm",
        ),
    )
}
# The weight at which an output norm gives zero. Other models with such norms get zero projections.
_SILENT_WEIGHT = {
    "olmo2": 0.0,
    "olmo3": 0.0,
    "exaone4": 0.0,
    "glm4": 0.0,
    "gemma2": -1.0,
    "gemma3_text": -1.0,
}
_MIXERS = {"self_attn", "attn", "attention", "self_attention", "linear_attn", "mamba", "conv",
           "mlp", "ffn", "feed_forward", "block_sparse_moe", "intermediate", "output", "fc1", "fc2",
           "SelfAttention", "EncDecAttention", "DenseReluDense"}  # fmt: skip
_PROJECTIONS = {
    "o_proj",
    "out_proj",
    "down_proj",
    "c_proj",
    "dense_4h_to_h",
    "fc2",
    "fc_out",
    "w2",
    "o",
    "wo",
}
# Words that mean the output projection in an attention and something else in an MLP.
_DENSE = {
    "self_attn.dense",
    "attention.dense",
    "self_attention.dense",
    "attention.output.dense",
    "output.dense",
}
# Switches that put the residual behind a norm although the names stay, or make a layer depend on its index.
_SWITCHES = ("apply_residual_connection_post_layernorm", "swin_norm", "scale_attn_by_inverse_layer_idx")

# MLPs that are two parts of the block: the one that writes, and the one before it (ViT, OPT).
_FIRST_HALF = {"output": "intermediate", "fc2": "fc1"}
_PART_NUMBER = re.compile(r"^layer\.\d+\.")
# -1 in the bytes of each type; zero is zero bytes in all of them.
_MINUS_ONE = {"F64": "000000000000f0bf", "F32": "000080bf", "BF16": "80bf", "F16": "00bc"}


def constant_parts(parts: Iterable[str], model_type: str) -> dict[str, float] | None:
    """Of a layer's tensors those to make constant, and the constant; None where no constant will do."""
    modules = {part: _module(part) for part in parts}
    norms = {module for module in modules.values() if "." not in module and _is_norm(module)}
    on_outputs = _NORMS_ON_OUTPUTS.get(frozenset(norms))
    if on_outputs is None:
        return None
    silent = _SILENT_WEIGHT.get(model_type)
    if on_outputs and silent is not None:
        return {
            part: 0.0 if part.endswith("bias") else silent
            for part, module in modules.items()
            if module in on_outputs
        }
    writers = _writers(set(modules.values()) - norms)
    if writers is None:
        return None
    return {
        part: 0.0
        for part, module in modules.items()
        if module in writers or (module in on_outputs and part.endswith("bias"))
    }


def constant_bytes(dtype: str, value: float) -> bytes:
    """One element of a safetensors dtype that holds 0 or -1; raises `LayerMapError` for other types."""
    if value == 0:
        return b"\0"
    if dtype not in _MINUS_ONE:
        raise LayerMapError(
            f"An identity block of this model needs weights of -1, and {dtype} is no type to write them in.",
            remedy="Use `fresh=copy`.",
        )
    return bytes.fromhex(_MINUS_ONE[dtype])


def require_identity(base: Checkpoint, layer_map: LayerMap) -> None:
    """Raises `LayerMapError` when a fresh layer of the map cannot be made the identity."""
    scope = base.layout.scope(base.config)
    problems = [f"the config sets {key}" for key in _SWITCHES if scope.get(key)]
    if not _has_final_norm(base.layout, base.tensors):
        problems.append(f"no norm follows {base.layout.prefix}: its blocks end in norms themselves")
    problems = problems or _unknown_blocks(base, layer_map)
    if problems:
        raise LayerMapError(
            f"The layers of {base.path} cannot be made the identity: zeroing what they add to their input "
            "is not known to pass it through.",
            problems=problems,
            remedy="Use `fresh=copy`.",
        )


def _unknown_blocks(base: Checkpoint, layer_map: LayerMap) -> list[str]:
    """The fresh layers whose build is not known, those of one build together."""
    parts: dict[int, list[str]] = {}
    for name in base.tensors:
        split = base.layout.split(name)
        if split is not None:
            parts.setdefault(split[0], []).append(split[1])
    kind = model_type(base.layout.scope(base.config))
    unknown: dict[str, list[int]] = {}
    for layer in sorted({s for s, fresh in zip(layer_map.source, layer_map.fresh, strict=True) if fresh}):
        if constant_parts(parts[layer], kind) is None:
            unknown.setdefault(", ".join(sorted(parts[layer])), []).append(layer)
    return [f"layers {', '.join(map(str, layers))} hold {held}" for held, layers in unknown.items()]


def model_type(scope: Mapping[str, Any]) -> str:
    """The `model_type` of the part of a config that describes the layers."""
    return str(scope.get("model_type", ""))


def _module(part: str) -> str:
    """The module of a parameter, without T5's number of the part; of fused experts the parameter itself."""
    for ending in (".weight", ".bias", "_bias"):
        part = part.removesuffix(ending)
    return _PART_NUMBER.sub("", part)


def _is_norm(module: str) -> bool:
    return "norm" in module.lower() or module.startswith("ln_")


def _writers(modules: set[str]) -> set[str] | None:
    """The modules that write to the residual stream; None where some part has none that is known."""
    writers = {m for m in modules if m.rpartition(".")[2] in _PROJECTIONS or m in _DENSE}
    mixers = {module.partition(".")[0] for module in modules}
    writing = {module.partition(".")[0] for module in writers}
    writing |= {_FIRST_HALF[second] for second in writing & _FIRST_HALF.keys()}
    experts = {parent for module in modules if "expert" in (parent := module.rpartition(".")[0])}
    if mixers != writing or not mixers <= _MIXERS or not experts <= {m.rpartition(".")[0] for m in writers}:
        return None
    return writers


def _has_final_norm(layout: Layout, names: Iterable[str]) -> bool:
    """Whether a norm stands beside the stack or beside what holds it."""
    parent = layout.prefix.rpartition(".")[0]
    places = {parent, parent.rpartition(".")[0]}
    outside = {_module(name) for name in names if layout.split(name) is None}
    return any(
        module.rpartition(".")[0] in places
        and _is_norm(last)
        and ("emb" not in last or last == "embedding_norm")  # so LFM2 calls its last norm
        for module in outside
        for last in [module.rpartition(".")[2]]
    )
