"""The scaled model in memory: nothing is written, and every copied layer shares its source's weights."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dusk.checkpoint import Checkpoint, deepen_config, open_checkpoint, require_fit
from dusk.checkpoint.forward import model_class
from dusk.errors import CheckpointError
from dusk.layers import LayerMap
from dusk.scale.choice import choose_map
from dusk.scale.identity import constant_parts, model_type, require_identity


def load_scaled(base: str | Path, layer_map: LayerMap | str, **loading: Any) -> Any:
    """The model that `scale` would write, as a transformers model, without writing it.

    It is of the class that the config names under `architectures`, and in evaluation mode. Layers that
    occur twice share their parameters: training one trains the other. Each occurrence is a module of its
    own, so that the KV cache keeps their states apart. `loading` goes to `from_pretrained` (`dtype`,
    `device_map`, ...).

    Raises what `scale` raises for the base and the map.
    """
    checkpoint = open_checkpoint(base)
    require_fit(checkpoint)
    layer_map, _ = choose_map(checkpoint, drop=None, to=None, params=None, layers=layer_map, fresh="copy")
    if any(layer_map.fresh):
        require_identity(checkpoint, layer_map)
    config, _ = deepen_config(checkpoint.config, checkpoint.layout, layer_map)
    model = model_class(checkpoint.config).from_pretrained(
        checkpoint.path, **{"local_files_only": True, **loading}
    )
    name, layers = _layer_list(model, checkpoint)
    kind = model_type(checkpoint.layout.scope(checkpoint.config))
    model.set_submodule(name, torch.nn.ModuleList(_layers(layers, layer_map, kind)))
    held = _adopt_config(model, checkpoint, config)
    own = getattr(model.get_submodule(name.rpartition(".")[0]), "config", held)
    if own is not held:  # T5's decoder has a copy of the config
        own.num_hidden_layers = len(layer_map)
    return model.eval()


def _layer_list(model: torch.nn.Module, checkpoint: Checkpoint) -> tuple[str, torch.nn.ModuleList]:
    """The model's list of layers: as many as the checkpoint has, of the same size.

    Their names differ where transformers renames while it loads; of several lists the one whose name
    shares its last words with the checkpoint's.
    """
    split = checkpoint.layout.split
    size = sum(entry.elements for name, entry in checkpoint.tensors.items() if split(name))
    words = checkpoint.layout.prefix.split(".")
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module) == checkpoint.layout.layers
        and sum(tensor.numel() for tensor in module.state_dict().values()) == size
    }
    if not found:
        raise CheckpointError(
            f"{checkpoint.path}: the loaded model has no list of layers of the size of "
            f"`{checkpoint.layout.prefix}`.",
            remedy="Write it with `scale` and load the result.",
        )
    return max(found.items(), key=lambda item: len({*item[0].split(".")} & {*words}))


def _layers(layers: torch.nn.ModuleList, layer_map: LayerMap, kind: str) -> Iterator[torch.nn.Module]:
    for target, (source, fresh) in enumerate(zip(layer_map.source, layer_map.fresh, strict=True)):
        layer = _occurrence(layers[source], target)
        if fresh:
            _make_identity(layer, kind)
        yield layer


def _occurrence(source: torch.nn.Module, target: int) -> torch.nn.Module:
    """A module for one target layer: its own structure around its source's tensors and configs."""
    shared: list[object] = [*source.parameters(), *source.buffers()]
    shared += [module.config for module in source.modules() if hasattr(module, "config")]
    layer = copy.deepcopy(source, {id(item): item for item in shared})
    for module in layer.modules():
        if hasattr(module, "layer_idx"):
            module.__dict__["layer_idx"] = target
    return layer


def _make_identity(layer: torch.nn.Module, kind: str) -> None:
    """Makes the block the identity; the constants are its own, the source keeps its weights."""
    constants = constant_parts((name for name, _ in layer.named_parameters()), kind) or {}
    for part, value in constants.items():
        owner, _, parameter = part.rpartition(".")
        module = layer.get_submodule(owner)
        constant = torch.full_like(getattr(module, parameter), value)
        setattr(module, parameter, torch.nn.Parameter(constant))


def _adopt_config(model: Any, checkpoint: Checkpoint, config: dict[str, Any]) -> Any:
    """Writes the changed fields into the model's own config object, which its parts share; that object."""
    held, before, deeper = model.config, checkpoint.config, config
    for key in checkpoint.layout.config_path:
        held, before, deeper = getattr(held, key), before[key], deeper[key]
    for key, value in deeper.items():
        if before.get(key) != value:
            setattr(held, key, value)
    return held
