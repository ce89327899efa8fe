"""A checkpoint seen as another architecture of the Llama family: its config is rewritten, its bytes are not.

`llama` is what SOLAR 10.7B is: Mistral's weights as Llama. `solar-pro` is Llama with a sliding window and block
skip connections (`dusk.skips`), in the published field names, which old and new transformers and vLLM read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from dusk.checkpoint import Checkpoint
from dusk.errors import CheckpointError
from dusk.scale.phi3 import unfused
from dusk.skips import LAYER_KEYS, PUBLISHED, PUBLISHED_WEIGHTS, WEIGHTS_KEY

Architecture = Literal["llama", "solar-pro"]
_CLASSES = {"llama": ("llama", "LlamaForCausalLM"), "solar-pro": ("solar", "SolarForCausalLM")}

# What the classes of transformers assume where a config is silent, as far as they differ from the first row.
_LLAMA: dict[str, Any] = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "sliding_window": None,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA | {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "phi3": _LLAMA
    | {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "eos_token_id": 32000, "pad_token_id": 32000},
    "solar": _LLAMA | {"sliding_window": 2047, **PUBLISHED.to_config(), WEIGHTS_KEY: list(PUBLISHED_WEIGHTS)},
}
# Of other classes or of code that the result does not run.
_DROPPED = ("auto_map", "resid_pdrop", "embd_pdrop", "original_max_position_embeddings", "rope_parameters",
            "partial_rotary_factor", "layer_types")  # fmt: skip


def as_architecture(base: Checkpoint, architecture: Architecture) -> tuple[Checkpoint, list[str]]:
    """The same bytes as a model of `architecture`, and notes on what that changes.

    Raises `CheckpointError` for a base that is no Llama under another name, or computes what the
    architecture cannot.
    """
    family = str(base.config.get("model_type"))
    if family not in _DEFAULTS:
        raise CheckpointError(
            f"{base.path} is of the type {family or 'unknown'}, which is no Llama under another name.",
            remedy=f"{', '.join(_DEFAULTS)} can be written as {architecture}.",
        )
    tensors = unfused(base) if family == "phi3" else dict(base.tensors)
    config, notes = _config(base.config, family, architecture)
    return replace(base, config=config, tensors=tensors), notes


def _config(
    given: Mapping[str, Any], family: str, architecture: Architecture
) -> tuple[dict[str, Any], list[str]]:
    model_type, class_name = _CLASSES[architecture]
    config = {**_DEFAULTS[family], **_rotary(given), **{k: v for k, v in given.items() if k not in _DROPPED}}
    config |= {"model_type": model_type, "architectures": [class_name]}
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    notes = [f"written as {architecture}, from {family}"] if model_type != family else []
    if architecture == "solar-pro":
        skips = {key: config.get(key) or [] for key in LAYER_KEYS}
        return config | skips | {WEIGHTS_KEY: config.get(WEIGHTS_KEY) or list(PUBLISHED_WEIGHTS)}, notes
    if any(config.pop(key, None) for key in LAYER_KEYS):
        raise CheckpointError("A Solar Pro with skip connections computes what no Llama does.")
    config.pop(WEIGHTS_KEY, None)
    window, context = config.pop("sliding_window"), config["max_position_embeddings"]
    if window is not None and window < context:
        config["max_position_embeddings"] = window
        notes.append(
            f"max_position_embeddings: {context} to {window}, within which the sliding window changes nothing"
        )
    return config, notes


def _rotary(given: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta and rope_scaling, from them or from the newer rope_parameters."""
    parameters = dict(given.get("rope_parameters") or {})
    theta = parameters.pop("rope_theta", None) or 10000.0
    scaled = parameters.get("rope_type", "default") != "default"
    return {"rope_theta": theta, "rope_scaling": parameters if scaled else None}
