"""A model made ready for training: what of it is trained, in what type, and shared out over the ranks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from dusk import freed_memory
from dusk.train.compiled import compile_layers
from dusk.train.distribution import on_main, spread
from dusk.train.layer_rates import apply_layer_rates
from dusk.train.lora import Adapters
from dusk.train.settings import TrainSettings
from dusk.train.support import require_trainable


@dataclass(frozen=True)
class Prepared:
    """A model, the factor of each trained parameter's rate by name, and its adapters if it has any."""

    model: PreTrainedModel
    rates: Mapping[str, float]
    adapters: Adapters | None


def prepared(
    model: PreTrainedModel, settings: TrainSettings, layer_map: Mapping[str, Any] | None
) -> Prepared:
    """Check a model, add adapters, freeze what is not trained, and share it out.

    Raises:
        CheckpointError: the architecture cannot be trained.
        SettingError: settings that need a layer map which is not there, adapt layers that are not, or need a
            compiler that is not there.
    """
    freed_memory.keep()
    on_main(lambda: require_trainable(model))
    adapters = Adapters.into(model, settings)
    rates = apply_layer_rates(model, settings, layer_map)
    if settings.weights == "bf16":
        model.to(torch.bfloat16)
    spread(model, settings.precision)
    if settings.compile:
        compile_layers(model)
    return Prepared(model, rates, adapters)
