"""From what the user asked for (a drop, a depth, a size, a map) to the layer map."""

import re

from dusk.checkpoint import Checkpoint
from dusk.errors import LayerMapError, SettingError
from dusk.layers import LayerMap
from dusk.scale.rules import RULES

DEFAULT_RULE = "depthwise"
_BY_SIZE = "Give `to` or `params`."
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,9})?)([KMBT]?)", re.ASCII)


def choose_map(
    base: Checkpoint,
    *,
    drop: int | None,
    to: int | None,
    params: int | str | None,
    layers: str | LayerMap | None,
    fresh: str,
    rule: str = DEFAULT_RULE,
) -> tuple[LayerMap, list[str]]:
    """The layer map, and notes on what was chosen for the user.

    Raises `SettingError` for more than one way of choosing, `LayerMapError` for an impossible map.
    """
    asked = {"drop": drop, "to": to, "params": params, "layers": layers}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise SettingError(
            f"{' and '.join(f'`{name}`' for name in given)} each choose the layers.",
            remedy="Give one of them.",
        )
    if rule not in RULES:
        raise SettingError(f"`rule` is {rule!r}; it is one of {', '.join(RULES)}.")
    if rule != DEFAULT_RULE and (layers is not None or drop is not None):
        raise SettingError(
            f"`rule` {rule} has no `{given[0]}`: it goes by the size.", remedy="Give `to` or `params`."
        )
    if fresh not in ("copy", "identity"):
        raise SettingError(f"`fresh` is {fresh!r}; it is `copy` or `identity`.")
    depth, notes = base.layout.layers, []
    if layers is not None:
        layer_map = layers if isinstance(layers, LayerMap) else LayerMap.parse(layers, depth)
        _require_base(layer_map, base)
    elif to is not None:
        layer_map = RULES[rule](depth, to)
    elif params is not None:
        layer_map = RULES[rule](depth, len(nearest_map(base, parse_size(params))))
        size = target_parameters(base, layer_map)
        notes.append(f"nearest to {params} parameters: {len(layer_map)} layers, {size:,} parameters")
    elif rule == DEFAULT_RULE:
        layer_map = LayerMap.depthwise(depth, drop)
    else:
        raise SettingError(f"`rule` {rule} goes by the size.", remedy=_BY_SIZE)
    return (layer_map.with_identity_copies() if fresh == "identity" else layer_map), notes


def parse_size(text: int | str) -> int:
    """A number of parameters: `11B`, `10.7B`, `500M` or a whole number."""
    match = _SIZE.fullmatch(str(text).strip().upper().replace(",", "").replace("_", ""))
    if match is None or float(match[1]) == 0:
        raise SettingError(f"`params` is {text!r}; it is a number such as 11B, 10.7B or 500M.")
    return round(float(match[1]) * _UNITS[match[2]])


def nearest_map(base: Checkpoint, wanted: int) -> LayerMap:
    """The depthwise map whose number of parameters is nearest to `wanted`."""
    depth = base.layout.layers
    if depth < 2:
        raise SettingError(f"{base.path} has one layer; no depthwise map makes another size of it.")
    maps = [LayerMap.to_depth(depth, target) for target in range(depth + 1, 2 * depth + 1)]
    sizes = [target_parameters(base, layer_map) for layer_map in maps]
    half_layer = (sizes[1] - sizes[0]) / 2
    if not min(sizes) - half_layer <= wanted <= max(sizes) + half_layer:
        raise SettingError(
            f"Two copies of {base.path} make {min(sizes):,} to {max(sizes):,} parameters, not {wanted:,}.",
            remedy="Choose a size between them, or name the layers of any other map by hand.",
        )
    return min(zip(sizes, maps, strict=True), key=lambda pair: abs(pair[0] - wanted))[1]


def target_parameters(base: Checkpoint, layer_map: LayerMap) -> int:
    """The number of stored elements of the base under this map."""
    per_layer = [0] * base.layout.layers
    outside = 0
    for name, entry in base.tensors.items():
        split = base.layout.split(name)
        if split is None:
            outside += entry.elements
        else:
            per_layer[split[0]] += entry.elements
    return outside + sum(per_layer[layer] for layer in layer_map.source)


def _require_base(layer_map: LayerMap, base: Checkpoint) -> None:
    if layer_map.base_layers != base.layout.layers:
        raise SettingError(
            f"The layer map is for {layer_map.base_layers} layers, {base.path} has {base.layout.layers}."
        )
    layout = base.layout
    bound = [
        name for name in base.tensors if (part := layout.split(name)) and not layout.has_place(1, part[1])
    ]
    if bound and layer_map.source[0] != 0:
        raise LayerMapError(
            f"{bound[0]} serves all layers from the first one; the map {layer_map.spec()} begins with another.",
            remedy="Begin the map with layer 0.",
        )
