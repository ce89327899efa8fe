"""Which layers are of which kind, where a config says it by a rule and not by a list.

Rules count from the bottom of the stack: "every sixth layer attends to everything". A layer that moves
changes its kind unless the map keeps the pattern's phase, n = 2m modulo the period for a depthwise map.
Where the rule is known here, the list that it means is written out instead; elsewhere the map is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dusk.errors import LayerMapError
from dusk.layers import LayerMap, drops_in_phase

Scope = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """A model's list `key` as transformers derives it where the config lacks it.

    The last layer of every `period` holds `last`, the others `other`. The period stands under one of
    `period_keys`, else it is `default`.
    """

    key: str
    last: object
    other: object
    default: int
    period_keys: tuple[str, ...] = ()


_WINDOWS = ("full_attention", "sliding_attention")
_PATTERN_KEYS = ("sliding_window_pattern", "_sliding_window_pattern")
_LINEAR = Rule("layer_types", "full_attention", "linear_attention", 4, ("full_attention_interval",))
_NO_ROPE = Rule("no_rope_layers", 0, 1, 4, ("no_rope_layer_interval",))
# By model_type: transformers, the configuration_*.py of each.
_RULES = {
    "gemma2": Rule("layer_types", *_WINDOWS, 2),
    "gpt_oss": Rule("layer_types", *_WINDOWS, 2),
    "vaultgemma": Rule("layer_types", *_WINDOWS, 2),
    "gemma3_text": Rule("layer_types", *_WINDOWS, 6, _PATTERN_KEYS),
    "cohere2": Rule("layer_types", *_WINDOWS, 4, _PATTERN_KEYS),
    "olmo3": Rule("layer_types", *_WINDOWS, 4),
    "qwen3_next": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": _LINEAR,
    "llama4_text": _NO_ROPE,
    "smollm3": _NO_ROPE,
    "minimax": Rule("layer_types", "linear_attention", "full_attention", 2),
}
# A period that any config may state, and the list that goes before it where the config has one.
_PERIODS = {
    "sliding_window_pattern": "layer_types",
    "_sliding_window_pattern": "layer_types",
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "interleave_moe_layer_step": "moe_layers",
    "moe_layer_interval": "mlp_layer_types",
    "attn_layer_period": "layers_block_type",
    "expert_layer_period": "layers_block_type",
}
_WINDOW_TYPES = ("qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text")


def write_out(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    """Adds to the base's config the lists that its rules mean, where the map breaks the rule; notes on it.

    Raises `LayerMapError` for a broken pattern whose list is not known here.
    """
    notes: list[str] = []
    for write in (_write_rule, _write_windows, _write_moe_layers, _write_dense_layers):
        notes += write(scope, layer_map)
    for key, list_key in _PERIODS.items():
        period = scope.get(key)
        if type(period) is int and _breaks(layer_map, period):
            if not scope.get(list_key):
                raise broken_pattern(key, period, list_key, layer_map)
            notes.append(_index_note(f"{key} = {period}", list_key, period, layer_map))
    return notes


def broken_pattern(key: str, value: int, list_key: str, layer_map: LayerMap) -> LayerMapError:
    """The refusal of a map that breaks a rule which the config cannot say otherwise."""
    return LayerMapError(
        f"This map breaks the pattern of layers that the config derives from {key} ({value}).",
        problems=[_kept_by(layer_map, value)] if key != "max_window_layers" else [],
        remedy=f"Choose such a map, or save the base with a current transformers, which writes {list_key}.",
    )


def _breaks(layer_map: LayerMap, period: int) -> bool:
    return period > 1 and not layer_map.keeps_phase(period)


def _kept_by(layer_map: LayerMap, period: int) -> str:
    kept = ", ".join(map(str, drops_in_phase(layer_map.base_layers, period)))
    return f"drops that keep it: {kept}" if kept else "no drop keeps it"


def _index_note(rule: str, list_key: str, period: int, layer_map: LayerMap) -> str:
    return (
        f"the pattern of {rule} changes its phase; {list_key} says so, but a runtime that derives it from "
        f"the layer's index (llama.cpp) will be wrong ({_kept_by(layer_map, period)})"
    )


def _write_rule(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    rule = _RULES.get(str(scope.get("model_type")))
    if rule is None:
        return []
    stated = next((scope[key] for key in rule.period_keys if type(scope.get(key)) is int), None)
    period = rule.default if stated is None else stated
    if not _breaks(layer_map, period):
        return []
    if not scope.get(rule.key):
        scope[rule.key] = _derived(layer_map, lambda i: rule.other if (i + 1) % period else rule.last)
        if stated is not None:
            return []  # the note on the stated period tells it
    elif stated is not None:
        return []
    return [_index_note(f"{scope['model_type']} (every {period})", rule.key, period, layer_map)]


def _write_windows(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    """Qwen: the layers from `max_window_layers` on attend in a window, where one is used.

    In Qwen2-MoE every other layer before it does.
    """
    first = scope.get("max_window_layers")
    windowed = scope.get("use_sliding_window") and scope.get("sliding_window")
    if type(first) is int and windowed and not scope.get("layer_types"):
        if scope.get("model_type") in _WINDOW_TYPES:
            scope["layer_types"] = _derived(layer_map, lambda i: _WINDOWS[i >= first])
        elif scope.get("model_type") == "qwen2_moe":
            scope["layer_types"] = _derived(layer_map, lambda i: _WINDOWS[i % 2 == 0 and i < first])
        elif not layer_map.leading(first)[1]:
            raise broken_pattern("max_window_layers", first, "layer_types", layer_map)
    return []


def _write_moe_layers(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    """Llama 4: every k-th layer has experts."""
    step = scope.get("interleave_moe_layer_step")
    if type(step) is int and _breaks(layer_map, step) and not scope.get("moe_layers"):
        scope["moe_layers"] = list(range(step - 1, layer_map.base_layers, step))
    return []


def _write_dense_layers(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    """Qwen-MoE: experts in every k-th layer that `mlp_only_layers` does not name.

    A step of one with every dense layer named says the same for any order of layers.
    """
    step = scope.get("decoder_sparse_step")
    if type(step) is not int or not _breaks(layer_map, step) or scope.get("mlp_layer_types"):
        return []
    named = set(scope.get("mlp_only_layers") or ())
    scope["mlp_only_layers"] = [i for i in range(layer_map.base_layers) if i in named or (i + 1) % step]
    scope["decoder_sparse_step"] = 1
    return [f"decoder_sparse_step: {step} to 1; mlp_only_layers names the layers without experts"]


def _derived(layer_map: LayerMap, kind: Callable[[int], object]) -> list[object]:
    return [kind(layer) for layer in range(layer_map.base_layers)]
