"""Low-rank adapters (Hu et al. 2021, "LoRA") through peft, in every stage; merged into a plain model at the end.

The adapters are put into the model's own linear layers, so everything that trains, measures and saves a model sees
one. Merging works on whole weights by name, as peft has it, and knows nothing of shards.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from dusk.errors import SettingError
from dusk.train.settings import TrainSettings

_NAME = "default"
_BASE, _DOWN, _UP = ".base_layer.", f".lora_A.{_NAME}.", f".lora_B.{_NAME}."
_ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True)
class Adapters:
    """The adapters of a model: W + alpha / rank * B A for each of the `targets`, names of linear layers."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str
    keep: bool

    @classmethod
    def into(cls, model: PreTrainedModel, settings: TrainSettings) -> Self | None:
        """Freeze the model and put adapters beside its linear layers, in place; None where none are asked for.

        Raises:
            SettingError: peft is not installed, or layers are named that the model has not.
        """
        if settings.lora_rank is None:
            return None
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise SettingError("lora_rank needs peft", remedy="pip install peft") from None
        made = cls(
            settings.lora_rank,
            settings.lora_alpha or 2.0 * settings.lora_rank,
            _targets(model, settings.lora_targets),
            model.name_or_path,
            settings.keep_adapter,
        )
        set_seed(settings.seed)
        with warnings.catch_warnings():  # peft asks transformers by a name of before 5.20
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            inject_adapter_in_model(LoraConfig(**made._config()), model, adapter_name=_NAME)
        return made

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a model with adapters as those of a plain one."""
        plain = {}
        for name, tensor in weights.items():
            if _DOWN in name or _UP in name:
                continue
            down, up = (weights.get(name.replace(_BASE, part)) for part in (_DOWN, _UP))
            adapted = _BASE in name and down is not None and up is not None
            plain[name.replace(_BASE, ".")] = (
                tensor + self.alpha / self.rank * (up @ down) if adapted else tensor  # type: ignore[operator]
            )
        return plain

    def save(self, weights: Mapping[str, Tensor], folder: Path) -> None:
        """The adapters alone into `folder`/adapter, as `PeftModel.from_pretrained` takes them."""
        target = folder / _ADAPTER_FOLDER
        target.mkdir(exist_ok=True)
        kept = {
            f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": tensor.contiguous()
            for name, tensor in weights.items()
            if _DOWN in name or _UP in name
        }
        save_file(kept, target / "adapter_model.safetensors", metadata={"format": "pt"})
        told = self._config() | {"peft_type": "LORA", "base_model_name_or_path": self.base}
        (target / "adapter_config.json").write_text(json.dumps(told, indent=2) + "\n")

    def _config(self) -> dict[str, Any]:
        """In peft's words."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": list(self.targets),
            "task_type": "CAUSAL_LM",
            "bias": "none",
        }


def _targets(model: PreTrainedModel, named: str | None) -> tuple[str, ...]:
    """The last parts of the names of the linear layers that are adapted."""
    inner = model.get_decoder().named_modules()
    linear = sorted({name.rsplit(".", 1)[-1] for name, m in inner if isinstance(m, torch.nn.Linear)})
    wanted = named.split(",") if named else linear
    unknown = [name for name in wanted if name not in linear]
    if unknown:
        raise SettingError(
            f"lora_targets: the model has no linear layer {', '.join(unknown)}",
            remedy=f"It has {', '.join(linear)}; leave the setting out to adapt all of them.",
        )
    return tuple(wanted)
