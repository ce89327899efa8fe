"""The config of the deeper model: its count of layers, and everything else in it that counts layers.

Four kinds of fields depend on depth: lists with one entry a layer, lists of layers' indices, numbers that
mean "the first k layers", and rules that give a layer's kind by its index (`patterns.py`). Lists are found
by their form, the others by their name.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

from dusk.checkpoint import patterns
from dusk.checkpoint.layout import COUNT_KEYS, DECODER_COUNT_KEYS, Layout
from dusk.errors import CheckpointError, LayerMapError
from dusk.layers import LayerMap
from dusk.skips import LAYER_KEYS, WEIGHTS_KEY, Skips, config_problems

_NEVER_PER_LAYER = ("architectures", "token_id", "tokens", "keys_to_ignore", "languages", "labels")
_INDEX_LISTS = ("mlp_only_layers", "moe_layers", "cross_attention_layers", "full_attn_idxs")
# Other lists that name layers: ascending indices under such a name.
_NAMES_LAYERS = re.compile(r".*layer(s|_ids|_idxs?|_indices|_indexes)")
_FIRST_K = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers", "moe_layer_start_index")
_LAST_K = ("num_kv_shared_layers",)
_LAST_INDEX = ("moe_layer_end_index",)


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
        for remap in (patterns.write_out, _first_k, _window_layers, _skips, _lists, _scaled_attention)
        for note in remap(scope, layer_map)
    ]
    scope[layout.count_key] = len(layer_map)
    for part in (scope, deeper) if layout.count_key not in DECODER_COUNT_KEYS else ():
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
        and key not in (*LAYER_KEYS, WEIGHTS_KEY)
        and not _is_index_list(key, value, layers)
        and not any(part in key for part in _NEVER_PER_LAYER)
    ]


def _is_index_list(key: str, value: object, layers: int) -> bool:
    """Whether a list names single layers; flags with one entry a layer do not ascend, save in two layers."""
    if not isinstance(value, list) or not all(type(entry) is int for entry in value):
        return False
    if key in _INDEX_LISTS:
        return True
    ascending = value == sorted(set(value)) and all(0 <= entry < layers for entry in value)
    flags = len(value) == layers <= 2
    return (
        ascending and not flags and _NAMES_LAYERS.fullmatch(key) is not None and not key.startswith("vision")
    )


def _lists(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    notes = []
    depth = layer_map.base_layers
    naming = [key for key, value in scope.items() if value and _is_index_list(key, value, depth)]
    for key in per_layer_fields(scope, depth):
        scope[key] = layer_map.remap(scope[key])
        notes.append(f"{key}: remapped to {len(layer_map)} entries")
    for key in naming:
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
    if not (skips.connections() or lost):
        return []
    notes = [f"skip connections: now {skips.spec() or 'none'}"]
    cut = ", ".join(f"{c.store}-{c.use}" for c in lost if c.use < layer_map.base_layers)
    return [*notes, f"skip connections that the map cuts everywhere: {cut}"] if cut else notes


def _first_k(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    notes = []
    for key in _FIRST_K:
        k = scope.get(key)
        if type(k) is not int or k <= 0:
            continue
        leading, holds = layer_map.leading(k)
        if not holds and not scope.get("mlp_layer_types"):
            raise LayerMapError(
                f"The config's {key} = {k} says that the first layers are of another kind; "
                f"the map {layer_map.spec()} puts one of them behind the others.",
                remedy=f"Let source layers 0-{k - 1} occur at the beginning only: drop at least {k}.",
            )
        scope[key] = leading
        notes.append(f"{key}: {k} to {leading}")
    for key in _LAST_INDEX:
        if scope.get(key) == layer_map.base_layers - 1:
            scope[key] = len(layer_map) - 1
    for key in _LAST_K:
        if type(scope.get(key)) is int and scope[key] > 0:
            raise LayerMapError(
                f"The config's {key} ties the last layers to earlier ones; no map keeps that."
            )
    return notes


def _window_layers(scope: dict[str, Any], layer_map: LayerMap) -> list[str]:
    """Qwen's max_window_layers; where windows are used, `layer_types` goes before it."""
    k = scope.get("max_window_layers")
    if type(k) is not int:
        return []
    leading, _ = layer_map.leading(k)
    scope["max_window_layers"] = leading if k < layer_map.base_layers else max(k, len(layer_map))
    windowed = scope.get("use_sliding_window") and scope.get("sliding_window")
    return [f"max_window_layers: {k} to {scope['max_window_layers']}"] if windowed else []


def _scaled_attention(scope: dict[str, Any], _: LayerMap) -> list[str]:
    if not scope.get("scale_attn_by_inverse_layer_idx"):
        return []
    return ["scale_attn_by_inverse_layer_idx: layers that move attend with another scale than they learnt"]
