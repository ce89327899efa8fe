"""Tiny random Solar Pro models, what the reference reads of them, and what it says of them."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dusk.skips import Skips
from dusk.solar_pro import SolarConfig, SolarForCausalLM
from solar_reference import logits_of

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def solar_config(skips: Skips | str, layers: int = 8, **fields: Any) -> SolarConfig:
    made = Skips.parse(skips, layers) if isinstance(skips, str) else skips
    return SolarConfig(**{**SIZES, "num_hidden_layers": layers, **made.to_config(), **fields})


def solar_model(skips: Skips | str, layers: int = 8, seed: int = 0, **fields: Any) -> SolarForCausalLM:
    torch.manual_seed(seed)
    model = SolarForCausalLM(solar_config(skips, layers, **fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.rand_like(parameter) * 0.5 + 0.75)
    return model


def random_skips(seed: int, layers: int) -> Skips:
    """Lists that the rule accepts, drawn slot by slot: long and short, touching, shared, beyond the end."""
    draw = random.Random(seed)
    stores: list[tuple[int, ...]] = []
    uses: list[tuple[int, ...]] = []
    for _ in range(2):
        stored, used, layer = [], [], draw.randint(0, 2)
        while layer < layers + 2 and draw.random() < 0.8:
            stored.append(layer)
            for _ in range(draw.choice([1, 1, 2])):
                layer += draw.randint(1, 3)
                used.append(layer)
            layer += draw.randint(1, 2)
        stores.append(tuple(stored))
        uses.append(tuple(used))
    return Skips((stores[0], stores[1]), (uses[0], uses[1]))


def plain(config: SolarConfig) -> dict[str, Any]:
    """The config as the reference reads it."""
    return {**config.to_dict(), "rope_theta": config.rope_parameters["rope_theta"]}


def tokens_of(model: SolarForCausalLM, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(
        2, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed)
    )  # 0 pads


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest logit."""
    return float((found.detach().double() - expected).abs().max() / expected.abs().max())


def reference(model: SolarForCausalLM, row: Tensor, **mode: bool) -> Tensor:
    """The logits of one row by the rule, (T, V)."""
    return logits_of(row, model.state_dict(), plain(model.config), **mode)


def read(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def config_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return loaded
