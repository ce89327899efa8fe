"""Models into memory and out again."""

import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel, set_seed
from transformers.utils import logging

from dusk import solar_pro
from dusk.checkpoint import Checkpoint
from dusk.errors import CheckpointError, SettingError
from dusk.train.distribution import on_main, whole_weights, world_size
from dusk.train.lora import Adapters
from dusk.train.precision import device_of_training
from dusk.train.settings import SavedType

logging.disable_progress_bar()
solar_pro.register()

_REFUSALS = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, StrictDataclassError)
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_model(folder: Path) -> PreTrainedModel:
    """A causal model with float32 weights: an Adam step is often smaller than what bf16 can hold.

    Of several ranks the first has the weights, and the others a hollow model (see `distribution.spread`).

    Raises:
        CheckpointError: transformers cannot load the folder, or the weights do not fit the config.
    """
    return _ready(on_main(lambda: _saved(folder)) or _hollow(folder))


def hollow_model(folder: Path) -> PreTrainedModel:
    """The model of a folder by its config alone, without its weights.

    Raises:
        CheckpointError: transformers cannot make it.
    """
    try:
        return _hollow(folder)
    except _REFUSALS as error:
        raise _not_loaded(folder, error) from error


def _saved(folder: Path) -> PreTrainedModel:
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    except _REFUSALS as error:
        raise _not_loaded(folder, error) from error
    faults = [f"{name} is missing" for name in sorted(found["missing_keys"])]
    faults += [f"{name} has another shape" for name in sorted(str(key) for key in found["mismatched_keys"])]
    if faults:
        raise CheckpointError(
            f"{folder}: the weights do not fit the config",
            problems=faults[:20],
            remedy="`dusk verify` says more; transformers would have put random numbers in their place.",
        )
    return model


def _not_loaded(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: transformers cannot load this model: {error}",
        remedy="`dusk verify` says whether the folder is whole.",
    )


def _hollow(config: Path) -> PreTrainedModel:
    """A model of this config whose parameters have shapes alone; its buffers are real."""
    with init_empty_weights(include_buffers=False):
        model = _of_config(config)
    model.tie_weights()  # what was tied inside has become two
    return model


def _of_config(config: Path) -> PreTrainedModel:
    found = AutoConfig.from_pretrained(config, trust_remote_code=False)
    return AutoModelForCausalLM.from_config(found, dtype=torch.float32, trust_remote_code=False)


def new_model(config_file: Path, seed: int) -> PreTrainedModel:
    """A model with random weights from a config.json.

    Raises:
        CheckpointError: no config, or one that transformers refuses.
    """
    try:
        set_seed(seed)
        return _ready(on_main(lambda: _of_config(config_file)) or _hollow(config_file))
    except _REFUSALS as error:
        raise CheckpointError(
            f"{config_file}: no model can be made of this config: {error}",
            remedy="--from-scratch takes a config.json as transformers writes it.",
        ) from error


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    """Without generation settings, whose faults would stop every save; alone, on the device of training."""
    model.generation_config = GenerationConfig.from_model_config(model.config)
    return model if world_size() > 1 else model.to(device_of_training())


def result_dtype(source: torch.dtype, asked: SavedType) -> torch.dtype:
    """The type of the result: that of what was trained, or the one that was asked for."""
    return {"source": source, "fp32": torch.float32, "bf16": torch.bfloat16}[asked]


def saved_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The type that most of a checkpoint's bytes are in."""
    sizes: dict[str, int] = {}
    for entry in checkpoint.tensors.values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.bytes
    name = max(sizes, key=lambda name: sizes[name])
    if name not in _DTYPES:
        raise CheckpointError(f"{checkpoint.path}: weights of the type {name} cannot be trained.")
    return _DTYPES[name]


def configured_dtype(config_file: Path) -> torch.dtype:
    """The type that a config.json names, float32 where it names none; raises `CheckpointError`."""
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{config_file} is no config: {error}", remedy="--from-scratch takes a model's config.json."
        ) from error
    found = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}.get(name)
    if found is None:
        raise CheckpointError(f"{config_file}: dtype is {name}, and must be float32, bfloat16 or float16.")
    return found


def save_model(
    model: PreTrainedModel, folder: Path, dtype: torch.dtype, lora: Adapters | None = None
) -> None:
    """Write weights, adapters merged, and config in `dtype`; the model itself stays as it is.

    Rank 0 writes, all take part.
    """
    weights = whole_weights(model)
    plain = weights if lora is None else lora.merged(weights)
    on_main(lambda: _write(model, _in_dtype(plain, dtype), folder, dtype))
    if lora is not None and lora.keep:
        on_main(lambda: lora.save(weights, folder))


def _write(model: PreTrainedModel, weights: dict[str, Tensor], folder: Path, dtype: torch.dtype) -> None:
    model.save_pretrained(folder, state_dict=weights)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
    config_file.write_text(json.dumps(config, indent=2) + "\n")


def _in_dtype(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights in `dtype`; what shares its memory (a tied head) still does, or it would be written twice."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    return {
        name: made.setdefault((tensor.data_ptr(), tensor.shape), tensor.to(dtype))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


def context_length(model: PreTrainedModel, wanted: int | None) -> int:
    """The longest document to train on: what was asked for, or the model's context up to 4096.

    Raises:
        SettingError: more than the model's context was asked for.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if wanted is not None and context is not None and wanted > context:
        raise SettingError(
            f"sequence_length is {wanted:,}, and the model's context is {context:,} tokens",
            remedy="Lower it; documents of text are cut into pieces, longer conversations are left out.",
        )
    return wanted or min(context or 4096, 4096)
