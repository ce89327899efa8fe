"""The layer map as a picture: which layer of the base fills which layer of the scaled model.

Each base layer has a colour of one scale that grows lighter with depth (so that it reads without hue), and
every model of the run wears the colours of the layers that it was grown from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dusk.errors import LayerMapError
from dusk.layers import LayerMap
from dusk.report.run_folder import Run, Stage

_STOPS = ((38, 42, 99), (112, 61, 122), (192, 87, 106), (240, 143, 92), (250, 205, 128))
_EVEN_LUMINANCE = 0.19  # white and near-black ink are read equally well on this
_ROW_HEIGHT, _LINK_HEIGHT = 26, 54
_CELL_MOST, _CELL_LEAST, _WIDTH = 44.0, 15.0, 860.0


@dataclass(frozen=True)
class Shade:
    """A layer's colour and the ink that is read on it."""

    colour: str
    ink: str


@dataclass(frozen=True)
class LayerCell:
    """One layer in the strip."""

    x: float
    label: str
    shade: Shade
    fresh: bool
    hint: str


@dataclass(frozen=True)
class SeamMark:
    """Where the source index jumps, in the lower row."""

    x: float
    words: str


@dataclass(frozen=True)
class LayerStrip:
    """The base's layers above, the scaled model's below, and lines from each source to its targets."""

    scaled: str
    base: str
    spec: str
    cell: float
    width: float
    above: tuple[LayerCell, ...]
    below: tuple[LayerCell, ...]
    links: tuple[str, ...]
    seams: tuple[SeamMark, ...]
    spoken: str
    row_height: int = _ROW_HEIGHT
    link_height: int = _LINK_HEIGHT


def layer_map_of(stage: Stage) -> LayerMap | None:
    """The map in a stage's manifest; None where it has none or none that is a map."""
    told = stage.manifest.get("layer_map")
    try:
        return LayerMap.from_json(told) if isinstance(told, dict) else None
    except (LayerMapError, KeyError, TypeError, ValueError):
        return None


def shade(layer: int, layers: int) -> Shade:
    """The colour of a base layer: dark at the bottom of the model, light at its top."""
    place = layer / max(1, layers - 1) * (len(_STOPS) - 1)
    index = min(int(place), len(_STOPS) - 2)
    low, high, share = _STOPS[index], _STOPS[index + 1], place - index
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    dark_ink = _luminance(red, green, blue) > _EVEN_LUMINANCE
    return Shade(f"#{red:02x}{green:02x}{blue:02x}", "#120c22" if dark_ink else "#ffffff")


def _luminance(*channels: int) -> float:
    """Relative luminance, 0 to 1, as WCAG 2 defines it."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def shades(run: Run) -> dict[str, Sequence[Shade]]:
    """The colours of every model's layers: by the layer map that made it or its forebear, else by depth."""
    found: dict[str, Sequence[Shade]] = {}
    for stage in run.models:
        layer_map = layer_map_of(stage) if stage.kind == "scale" else None
        inherited = next((found[parent] for parent in stage.parents if parent in found), ())
        if layer_map is not None:
            before = inherited or [
                shade(layer, layer_map.base_layers) for layer in range(layer_map.base_layers)
            ]
            found[stage.name] = [before[layer] for layer in layer_map.source if layer < len(before)]
        elif inherited and len(inherited) == (stage.layers or len(inherited)):
            found[stage.name] = inherited
        elif stage.layers:
            found[stage.name] = [shade(layer, stage.layers) for layer in range(stage.layers)]
    return found


def layer_strip(stage: Stage, base: str) -> LayerStrip | None:
    """Draw the layer map of a scaled model; None where the run does not hold it."""
    layer_map = layer_map_of(stage)
    if layer_map is None:
        return None
    total = max(len(layer_map), layer_map.base_layers)
    cell = min(_CELL_MOST, max(_CELL_LEAST, _WIDTH / total))
    inset = (len(layer_map) - layer_map.base_layers) / 2 * cell  # the shorter row stands in the middle
    above_x, below_x = max(0.0, inset), max(0.0, -inset)
    colours = [shade(layer, layer_map.base_layers) for layer in range(layer_map.base_layers)]
    spoken = f"{len(layer_map)} layers from {layer_map.base_layers}: {layer_map.spec()}"
    seams = [
        SeamMark(below_x + seam.target * cell, f"seam: layer {seam.before} is followed by layer {seam.after}")
        for seam in layer_map.seams
    ]
    return LayerStrip(
        scaled=stage.label,
        base=base,
        spec=layer_map.spec(),
        cell=cell,
        width=total * cell,
        above=tuple(
            LayerCell(above_x + i * cell, str(i), colour, False, f"layer {i}")
            for i, colour in enumerate(colours)
        ),
        below=tuple(
            LayerCell(below_x + i * cell, str(s), colours[s], fresh, _hint(i, s, fresh))
            for i, (s, fresh) in enumerate(zip(layer_map.source, layer_map.fresh, strict=True))
        ),
        links=tuple(
            _link(above_x + (s + 0.5) * cell, below_x + (i + 0.5) * cell)
            for i, s in enumerate(layer_map.source)
        ),
        seams=tuple(seams),
        spoken="; ".join([spoken, *(seam.words for seam in seams)]),
    )


def _hint(target: int, source: int, fresh: bool) -> str:
    made = "an identity block at first, in the place of" if fresh else "a copy of"
    return f"layer {target}: {made} base layer {source}"


def _link(above: float, below: float) -> str:
    top, bottom = _ROW_HEIGHT, _ROW_HEIGHT + _LINK_HEIGHT
    middle = (top + bottom) / 2
    return f"M{above:g} {top}C{above:g} {middle:g} {below:g} {middle:g} {below:g} {bottom}"
