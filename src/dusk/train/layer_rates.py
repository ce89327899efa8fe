"""Which parameters are trained and how fast, taken from the layer map of a scaled model.

All at one rate (SOLAR); the new layers alone (LLaMA Pro, Wu et al. 2024, section 3.2: the old ones keep what they
know); or a rate that falls with the distance from where the map was broken.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from dusk.errors import SettingError
from dusk.layers import LayerMap
from dusk.train.settings import TrainSettings


def new_layers(layers: LayerMap) -> tuple[int, ...]:
    """The target layers that the base had not: later copies of a layer, and identity blocks."""
    return tuple(sorted({*layers.copies, *(i for i, fresh in enumerate(layers.fresh) if fresh)}))


def seam_distances(layers: LayerMap) -> list[int]:
    """For each target layer how many layers lie between it and a seam, or an identity block; 0 beside one."""
    broken = {side for seam in layers.seams for side in (seam.target - 1, seam.target)}
    broken |= {i for i, fresh in enumerate(layers.fresh) if fresh}
    return [min((abs(i - other) for other in broken), default=0) for i in range(len(layers))]


def layer_rates(layers: LayerMap, settings: TrainSettings) -> list[float]:
    """The factor of the learning rate for each target layer; 0 for one that is frozen."""
    new = new_layers(layers)
    falling = settings.seam_decay if settings.seam_decay is not None else 1.0
    return [
        0.0 if settings.train == "new" and i not in new else falling**distance
        for i, distance in enumerate(seam_distances(layers))
    ]


def apply_layer_rates(
    model: PreTrainedModel, settings: TrainSettings, layer_map: Mapping[str, Any] | None
) -> dict[str, float]:
    """Freeze what is not to be trained; returns the factor of each trained parameter's rate, by its name.

    `layer_map` as dusk.json holds it. Embeddings go with the first layer and the last norm and the head with the
    last, or are frozen where only new layers are trained.

    Raises:
        SettingError: the settings need a layer map, and there is none, or one of another depth.
    """
    if settings.train == "all" and settings.seam_decay is None:
        return {name: 1.0 for name, parameter in model.named_parameters() if parameter.requires_grad}
    prefix, depth = _layers_of(model)
    rates = layer_rates(_checked(layer_map, depth, settings), settings)
    if not any(rates):
        raise SettingError(
            "no layer is left to train: the layer map has no new layers",
            remedy="Give --train all, or a model that `dusk scale` has made deeper.",
        )
    factors = {}
    for name, parameter in model.named_parameters():
        inside = name.startswith(prefix)
        layer = int(name.removeprefix(prefix).split(".")[0]) if inside else 0 if "embed" in name else -1
        factor = 0.0 if settings.train == "new" and not inside else rates[layer]
        if not parameter.requires_grad:
            continue
        if factor == 0.0:
            parameter.requires_grad_(False)
        else:
            factors[name] = factor
    return factors


def _layers_of(model: PreTrainedModel) -> tuple[str, int]:
    """What the names of the layers' parameters begin with, and how many layers there are."""
    layers = model.get_decoder().layers
    name = next(name for name, module in model.named_modules() if module is layers)
    assert isinstance(layers, nn.ModuleList)
    return f"{name}.", len(layers)


def _checked(layer_map: Mapping[str, Any] | None, depth: int, settings: TrainSettings) -> LayerMap:
    asked = "train new" if settings.train == "new" else "seam_decay"
    if layer_map is None:
        raise SettingError(
            f"{asked} needs the layer map of the model, and its dusk.json has none",
            remedy="Scale the model with `dusk scale`, which writes the map, or train all layers at one rate.",
        )
    layers = LayerMap.from_json(layer_map)
    if len(layers) != depth:
        raise SettingError(
            f"{asked} needs the layer map of the model: dusk.json's has {len(layers)} layers, the model {depth}",
            remedy="The folder's files do not belong together; `dusk verify` says more.",
        )
    return layers
