"""The config of the deeper model: its count of layers, and everything else in it that counts layers.

Three kinds of fields depend on depth: lists with one entry a layer, numbers that mean "the first k
layers" or name single layers, and periods from which a runtime derives a layer's kind from its index.
Lists are found by their length, the others are rows of the tables below.
"""

import copy
from collections.abc import Mapping
from typing import Any

from dusk.checkpoint.layout import COUNT_KEYS, Layout
from dusk.errors import CheckpointError, LayerMapError
from dusk.layers import LayerMap, drops_in_phase
from dusk.skips import LAYER_KEYS, Skips, config_problems

_NEVER_PER_LAYER = ("architectures", "token_id", "tokens", "keys_to_ignore", "languages", "labels")
_LAYER_INDICES = ("mlp_only_layers", "moe_layers", "cross_attention_layers", "full_attn_idxs")
_FIRST_K = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers")
_LAST_K = ("num_kv_shared_layers",)
# The period, and the list that makes transformers ignore it where the config has one.
_PERIODS = {
    "sliding_window_pattern": "layer_types",
    "_sliding_window_pattern": "layer_types",
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "interleave_moe_layer_step": "moe_layers",
    "decoder_sparse_step": "mlp_layer_types",
    "attn_layer_period": "layers_block_type",
    "expert_layer_period": "layers_block_type",
}
# Periods that older configs leave to the model's code (transformers, the configuration_*.py of each).
_IMPLICIT_PERIODS = {"gemma2": 2, "cohere2": 4, "gemma3_text": 6}


def deepen_config(
    config: Mapping[str, Any], layout: Layout, layer_map: LayerMap
) -> tuple[dict[str, Any], list[str]]:
    """The config with every field that counts layers as `layer_map` has it, and notes on what changed.

    Raises `LayerMapError` when the map breaks what the config cannot say otherwise: an attention
    pattern that the runtime derives from the layer's index, a dense layer behind the expert layers;
    `CheckpointError` for skip connections that no model can have.
    """
    deeper = copy.deepcopy(dict(config))
    scope = deeper
    for key in layout.config_path:
        scope = scope[key]
    notes = [
        note
        for remap in (_first_k, _window_layers, _periods, _skips, _lists)
        for note in remap(scope, layer_map)
    ]
    for part in (scope, deeper):
        for key in COUNT_KEYS:
            if part.get(key) == layout.layers:
                part[key] = len(layer_map)
    return deeper, notes


def per_layer_fields(scope: Mapping[str, Any], layers: int) -> list[str]:
    """The keys whose value is a list with one entry a layer."""
    return [
        key
        for key, value in scope.items()
        if isinstance(value, list)
        and len(value) == layers
        and key not in (*_LAYER_INDICES, *LAYER_KEYS)
        and not any(part in key for part in _NEVER_PER_LAYER)
    ]


def _lists(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    notes = []
    for key in per_layer_fields(scope, layer_map.base_layers):
        scope[key] = layer_map.remap(scope[key])
        notes.append(f"{key}: remapped to {len(layer_map)} entries")
    for key in _LAYER_INDICES:
        if isinstance(scope.get(key), list) and scope[key]:
            named = set(scope[key])
            scope[key] = [i for i, layer in enumerate(layer_map.source) if layer in named]
            notes.append(f"{key}: now {scope[key]}")
    return notes


def _skips(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    """Solar Pro's skip connections, each from the copy of its store to the copy of its use behind it."""
    if not any(key in scope for key in LAYER_KEYS):
        return []
    problems = config_problems(scope)
    if problems:
        raise CheckpointError("The config's skip connections cannot be used.", problems=problems)
    skips, lost = Skips.of(scope).remapped(layer_map.source)
    scope |= skips.to_config()
    notes = [f"skip connections: now {skips.spec() or 'none'}"]
    cut = ", ".join(f"{c.store}-{c.use}" for c in lost if c.use < layer_map.base_layers)
    return [*notes, f"skip connections that the map cuts everywhere: {cut}"] if cut else notes


def _leading(layer_map: LayerMap, k: int) -> tuple[int, bool]:
    """How many target layers come from the first k before any other; whether none comes later."""
    of_first = [layer < k for layer in layer_map.source]
    leading = of_first.index(False) if False in of_first else len(of_first)
    return leading, not any(of_first[leading:])


def _first_k(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    notes = []
    for key in _FIRST_K:
        k = scope.get(key)
        if type(k) is not int or k <= 0:
            continue
        leading, holds = _leading(layer_map, k)
        if not holds:
            raise LayerMapError(
                f"The config's {key} = {k} says that the first layers are of another kind; "
                f"the map {layer_map.spec()} puts one of them behind the others.",
                remedy=f"Let source layers 0-{k - 1} occur at the beginning only: drop at least {k}.",
            )
        scope[key] = leading
        notes.append(f"{key}: {k} to {leading}")
    for key in _LAST_K:
        if type(scope.get(key)) is int and scope[key] > 0:
            raise LayerMapError(
                f"The config's {key} ties the last layers to earlier ones; no map keeps that."
            )
    return notes


def _window_layers(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    """Qwen's max_window_layers: the layers from this index on attend in a window, where one is used."""
    k = scope.get("max_window_layers")
    if type(k) is not int:
        return []
    leading, holds = _leading(layer_map, k)
    windowed = scope.get("use_sliding_window") and scope.get("sliding_window")
    if windowed and not holds and "layer_types" not in scope:
        raise _needs_list("max_window_layers", k, "layer_types", "")
    scope["max_window_layers"] = leading if k < layer_map.base_layers else max(k, len(layer_map))
    return [f"max_window_layers: {k} to {scope['max_window_layers']}"] if windowed else []


def _periods(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    notes = []
    for key, period, explicit in _stated_periods(scope):
        if period <= 1 or layer_map.keeps_phase(period):
            continue
        kept = ", ".join(map(str, drops_in_phase(layer_map.base_layers, period)))
        drops = f"drops that keep it: {kept}" if kept else "no drop keeps it"
        if not scope.get(explicit):
            raise _needs_list(key, period, explicit, drops)
        notes.append(
            f"the pattern of {key} = {period} changes its phase; {explicit} says so, but a runtime that "
            f"derives it from the layer's index (llama.cpp) will be wrong ({drops})"
        )
    return notes


def _stated_periods(scope: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    stated = [(key, scope[key], lst) for key, lst in _PERIODS.items() if type(scope.get(key)) is int]
    implicit = _IMPLICIT_PERIODS.get(str(scope.get("model_type")))
    if implicit and not any(explicit == "layer_types" for _, _, explicit in stated):
        stated.append(("model_type", implicit, "layer_types"))
    return stated


def _needs_list(key: str, value: int, explicit: str, drops: str) -> LayerMapError:
    return LayerMapError(
        f"This map breaks the pattern of layers that the config derives from {key} ({value}).",
        problems=[drops] if drops else [],
        remedy=f"Choose such a map, or save the base with a current transformers, which writes {explicit}.",
    )
