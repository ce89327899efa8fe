"""Models into memory and out again."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, set_seed
from transformers.utils import logging

from dusk.data.encode import TextTokenizer
from dusk.errors import CheckpointError

logging.disable_progress_bar()


def load_model(folder: Path) -> PreTrainedModel:
    """A causal model with float32 weights: an Adam step is often smaller than what bf16 can hold.

    Raises:
        CheckpointError: transformers cannot load the folder.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: transformers cannot load this model: {error}",
            remedy="`dusk verify` says whether the folder is whole.",
        ) from error


def new_model(config_file: Path, seed: int) -> PreTrainedModel:
    """A model with random weights from a config.json.

    Raises:
        CheckpointError: no config, or one that transformers refuses.
    """
    try:
        config = AutoConfig.from_pretrained(config_file)
        set_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{config_file}: no model can be made of this config: {error}",
            remedy="--from-scratch takes a config.json as transformers writes it.",
        ) from error


def saved_dtype(config: dict[str, Any]) -> torch.dtype:
    """The dtype that a folder's config names, float32 where it names none."""
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return getattr(torch, str(name).removeprefix("torch."))  # type: ignore[no-any-return]


def save_model(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Write weights and config in `dtype`; the model itself stays as it is."""
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
    config_file.write_text(json.dumps(config, indent=2) + "\n")


def context_length(model: PreTrainedModel, wanted: int | None) -> int:
    """The longest document to train on: what was asked for, or the model's context up to 4096."""
    context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 4096))
    return wanted or min(context, 4096)


def load_tokenizer(folder: Path, model: PreTrainedModel) -> TextTokenizer:
    """The folder's fast tokenizer, with the id that ends a text.

    Raises:
        CheckpointError: no tokenizer.json, no end-of-text token, or more tokens than the model has.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        raise CheckpointError(
            f"{folder} has no tokenizer.json",
            remedy="Put the tokenizer of the base model into the folder.",
        )
    tokenizer = Tokenizer.from_file(str(file))
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.get_vocab_size() > rows:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size():,} tokens, the model {rows:,}",
            remedy="They do not belong together: use the tokenizer that the model was trained with.",
        )
    return TextTokenizer(tokenizer, eos=end_of_text(folder, tokenizer, model))


def end_of_text(folder: Path, tokenizer: Tokenizer, model: PreTrainedModel) -> int:
    """The id of the end-of-text token, from tokenizer_config.json or else the model's config."""
    settings_file = folder / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.exists() else {}
    named = settings.get("eos_token")
    text = named.get("content") if isinstance(named, dict) else named
    found = tokenizer.token_to_id(text) if text else model.config.eos_token_id
    found = found[0] if isinstance(found, list) else found
    if found is None:
        raise CheckpointError(
            f"{folder}: neither the tokenizer nor the config names an end-of-text token",
            remedy="Name it as `eos_token` in tokenizer_config.json.",
        )
    return int(found)
