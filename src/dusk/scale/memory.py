"""The scaled model in memory: nothing is written, and every copied layer shares its source's weights."""

import copy
from pathlib import Path
from typing import Any

import torch
import transformers

from dusk import solar_pro
from dusk.checkpoint import Checkpoint, deepen_config, open_checkpoint, require_fit
from dusk.errors import CheckpointError
from dusk.layers import LayerMap
from dusk.scale.choice import choose_map
from dusk.scale.identity import require_identity, zeroed_parts

solar_pro.register()


def load_scaled(base: str | Path, layer_map: LayerMap | str, **loading: Any) -> Any:
    """The model that `scale` would write, as a transformers model, without writing it.

    Layers that occur twice share their parameters: training one trains the other. Each occurrence is a
    module of its own, so that the KV cache keeps their states apart. `loading` goes to
    `AutoModelForCausalLM.from_pretrained` (`dtype`, `device_map`, ...).

    Raises what `scale` raises for the base and the map.
    """
    checkpoint = open_checkpoint(base)
    require_fit(checkpoint)
    layer_map, _ = choose_map(checkpoint, drop=None, to=None, params=None, layers=layer_map, fresh="copy")
    if any(layer_map.fresh):
        require_identity(checkpoint, layer_map)
    config, _ = deepen_config(checkpoint.config, checkpoint.layout, layer_map)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path, **{"local_files_only": True, **loading}
    )
    name, layers = _layer_list(model, checkpoint)
    deeper = torch.nn.ModuleList(_layer(layers, layer_map, target) for target in range(len(layer_map)))
    model.set_submodule(name, deeper)
    _adopt_config(model, checkpoint, config)
    return model.eval()


def _layer_list(model: torch.nn.Module, checkpoint: Checkpoint) -> tuple[str, torch.nn.ModuleList]:
    """The model's list of layers: the one with the checkpoint's prefix or as many entries."""
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)
    }
    prefix = checkpoint.layout.prefix
    for name, module in lists.items():
        if len(module) == checkpoint.layout.layers and (name == prefix or name.endswith(f".{prefix}")):
            return name, module
    raise CheckpointError(
        f"{checkpoint.path}: the loaded model has no list of layers `{prefix}`.",
        remedy="Write it with `scale` and load the result.",
    )


def _layer(layers: torch.nn.ModuleList, layer_map: LayerMap, target: int) -> torch.nn.Module:
    """A module for one target layer: its own structure around its source's tensors."""
    source = layers[layer_map.source[target]]
    shared: list[object] = [*source.parameters(), *source.buffers()]
    shared += [module.config for module in source.modules() if hasattr(module, "config")]
    layer = copy.deepcopy(source, {id(item): item for item in shared})
    for module in layer.modules():
        if hasattr(module, "layer_idx"):
            module.__dict__["layer_idx"] = target
    if layer_map.fresh[target]:
        _zero_outputs(layer)
    return layer


def _zero_outputs(layer: torch.nn.Module) -> None:
    """Makes the block the identity; the zeros are its own, the source keeps its weights."""
    for part in zeroed_parts(name for name, _ in layer.named_parameters()) or ():
        module_name, _, parameter = part.rpartition(".")
        module = layer.get_submodule(module_name)
        zeros = torch.zeros_like(getattr(module, parameter))
        setattr(module, parameter, torch.nn.Parameter(zeros))


def _adopt_config(model: Any, checkpoint: Checkpoint, config: dict[str, Any]) -> None:
    """Writes the changed fields into the model's own config object, which its parts share."""
    scope, deeper = model.config, config
    for key in checkpoint.layout.config_path:
        scope, deeper = getattr(scope, key), deeper[key]
    before = checkpoint.layout.scope(checkpoint.config)
    for key, value in deeper.items():
        if before.get(key) != value:
            setattr(scope, key, value)
