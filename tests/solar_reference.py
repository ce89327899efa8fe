"""Solar Pro written out by hand from the published rule, one token row at a time: the tests' reference.

Nothing of dusk or transformers is used: weights by their published names, a config as a dictionary.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def rotated(x: Tensor, positions: Tensor, theta: float) -> Tensor:  # (T, heads, D)
    half = x.shape[-1] // 2
    angles = positions[:, None].to(x.dtype) * theta ** (-torch.arange(half, dtype=x.dtype) / half)  # (T, D/2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def layer_output(
    i: int, h: Tensor, weights: Mapping[str, Tensor], config: Mapping[str, Any], positions: Tensor
) -> Tensor:
    def w(name: str) -> Tensor:
        return weights[f"model.layers.{i}.{name}.weight"].to(h.dtype)

    heads, kv_heads, eps = (
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["rms_norm_eps"],
    )
    x = rms_norm(h, w("input_layernorm"), eps)
    tokens = x.shape[0]
    q, k, v = (
        (x @ w(f"self_attn.{name}_proj").T).view(tokens, count, -1)
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
    )
    q, k = (rotated(states, positions, config["rope_theta"]) for states in (q, k))
    mixed = torch.zeros_like(q)
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    window = config["sliding_window"] or tokens
    seen = (distance >= 0) & (distance < window)
    for head in range(heads):
        shared = head // (heads // kv_heads)
        scores = q[:, head] @ k[:, shared].T / math.sqrt(q.shape[-1])
        mixed[:, head] = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v[:, shared]
    h = h + mixed.flatten(1) @ w("self_attn.o_proj").T
    x = rms_norm(h, w("post_attention_layernorm"), eps)
    gate = x @ w("mlp.gate_proj").T
    return h + (gate * gate.sigmoid() * (x @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T


def logits_of(
    tokens: Tensor, weights: Mapping[str, Tensor], config: Mapping[str, Any], *, training: bool = False
) -> Tensor:
    """The logits (T, V) of one row of tokens (T,) without padding, in float64."""
    h = weights["model.embed_tokens.weight"].double()[tokens]
    positions = torch.arange(len(tokens))
    s1 = s2 = None
    for i in range(config["num_hidden_layers"]):
        tv = config["bskcn_tv"][0] if training else config["bskcn_tv"][1]
        if i in config["bskcn_1"]:
            s1 = h
        if i in config["bskcn_2"]:
            s2 = h
        if i in config["bskcn_3"]:
            h = s1 * tv + h * (1 - tv)
        if i in config["bskcn_4"]:
            h = s2 * tv + h * (1 - tv)
        h = layer_output(i, h, weights, config, positions)
    h = rms_norm(h, weights["model.norm.weight"].double(), config["rms_norm_eps"])
    return h @ weights["lm_head.weight"].double().T


def deepened(weights: dict[str, Tensor], source: list[int]) -> dict[str, Tensor]:
    """The weights of a model whose layers are these of another."""
    made = {name: tensor for name, tensor in weights.items() if ".layers." not in name}
    for target, layer in enumerate(source):
        prefix = f"model.layers.{layer}."
        made |= {
            name.replace(prefix, f"model.layers.{target}."): tensor
            for name, tensor in weights.items()
            if name.startswith(prefix)
        }
    return made
