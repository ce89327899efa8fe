"""Phi-3's fused projections seen as Llama's: rows of one tensor are ranges of its bytes, so nothing is copied.

`qkv_proj` holds the rows of queries, keys and values in turn, `gate_up_proj` those of gate and up (transformers,
modeling_phi3.py). Rows lie one behind the other, so each part is a tensor of its own already.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dusk.checkpoint import Checkpoint, TensorEntry
from dusk.errors import CheckpointError

_ATTENTION, _MLP = "self_attn.qkv_proj", "mlp.gate_up_proj"


def unfused(base: Checkpoint) -> dict[str, TensorEntry]:
    """The tensors of a Phi-3 checkpoint under Llama's names.

    Raises `CheckpointError` for a variant that Llama cannot be: scaled or partial rotary embeddings, fused
    tensors with other rows than the config counts. All reasons are told at once.
    """
    config = base.config
    problems = list(_rotary_problems(config))
    heads = config["num_attention_heads"]
    keys = config.get("num_key_value_heads") or heads
    size = config["hidden_size"] // heads
    rows = {
        _ATTENTION: {"q_proj": heads * size, "k_proj": keys * size, "v_proj": keys * size},
        _MLP: {"gate_proj": config["intermediate_size"], "up_proj": config["intermediate_size"]},
    }
    tensors: dict[str, TensorEntry] = {}
    for name, entry in base.tensors.items():
        module, _, kind = name.rpartition(".")
        fused = next((fused for fused in rows if module.endswith(fused)), None)
        if fused is None:
            tensors[name] = entry
        elif entry.shape[0] != sum(rows[fused].values()):
            problems.append(
                f"{name} has {entry.shape[0]} rows, the config asks for {sum(rows[fused].values())}"
            )
        else:
            parent = module.rpartition(".")[0]
            for part, cut in zip(rows[fused], _cuts(entry, rows[fused].values()), strict=True):
                tensors[f"{parent}.{part}.{kind}"] = cut
    if problems:
        raise CheckpointError(f"{base.path} is a Phi-3 that no Llama can be.", problems=problems)
    return tensors


def _rotary_problems(config: Mapping[str, Any]) -> Iterator[str]:
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind != "default":
        yield (
            f"its rotary embedding is scaled for long texts ({kind}), which depends on the text's length; "
            "take the variant for 4k tokens"
        )
    partial = config.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        yield f"it rotates {partial:g} of each head (partial_rotary_factor), Llama all of it"


def _cuts(entry: TensorEntry, rows: Any) -> Iterator[TensorEntry]:
    """The tensor cut along its first dimension."""
    row_bytes = entry.bytes // entry.shape[0]
    begin = entry.begin
    for count in rows:
        end = begin + count * row_bytes
        yield replace(entry, shape=(count, *entry.shape[1:]), begin=begin, end=end)
        begin = end
