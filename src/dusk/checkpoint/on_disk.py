"""A model of transformers with its layers left on the disk, for models larger than memory.

accelerate reads one layer's weights when it is called and lets them go behind it: what is in memory is one
layer, the embeddings, the head and the hidden states. Weights that transformers stores in another form
than the checkpoint does (fused experts) are written into a passing folder first, which takes their room.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from dusk import freed_memory
from dusk.errors import CheckpointError

logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # that layers are on the disk is meant

Loading = Mapping[str, Any]
"""What transformers says about the names it found: missing, unexpected and mismatched keys."""


@contextmanager
def layers_on_disk(folder: Path, model_class: Any, device: torch.device) -> Iterator[tuple[Any, Loading]]:
    """The model with its layers on the disk and the rest on the device; see `load`."""
    freed_memory.give_back()
    with tempfile.TemporaryDirectory(prefix="dusk-layers-") as scratch:
        yield load(folder, model_class, layers_on=(scratch, device))


def load(
    folder: Path, model_class: Any, *, layers_on: tuple[str, torch.device] | None = None
) -> tuple[Any, Loading]:
    """The model in float32, and what transformers says about its names; no remote code is run.

    Raises `CheckpointError` where transformers does not load it.
    """
    placing: dict[str, Any] = {}
    try:
        if layers_on is not None:
            scratch, device = layers_on
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            places = _places(_skeleton(model_class, config), device)
            placing = {"device_map": places, "offload_folder": scratch}
        model, loading = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **placing,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise CheckpointError(f"transformers does not load {folder}: {error}") from error
    return model, loading


def _skeleton(model_class: Any, config: Any) -> torch.nn.Module:
    """The model without weights."""
    make = (
        getattr(model_class, "from_config", None) or model_class._from_config
    )  # of an Auto class, or its own
    with torch.device("meta"):
        skeleton: torch.nn.Module = make(config)
    return skeleton


def _places(skeleton: torch.nn.Module, device: torch.device) -> dict[str, str]:
    """Where each part lies: every member of an outermost list of modules on the disk, the rest on the device."""
    return dict(_placed(skeleton, "", str(device)))


def _placed(module: torch.nn.Module, name: str, device: str) -> Iterator[tuple[str, str]]:
    for own, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield f"{name}{own}", device
    for child_name, child in module.named_children():
        if isinstance(module, torch.nn.ModuleList):
            yield f"{name}{child_name}", "disk"
        elif any(isinstance(part, torch.nn.ModuleList) for part in child.modules()):
            yield from _placed(child, f"{name}{child_name}.", device)
        else:
            yield f"{name}{child_name}", device
