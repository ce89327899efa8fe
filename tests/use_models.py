"""Tiny models to use: scaled ones of each family; one that has learnt a few answers, and to stop behind them."""

from pathlib import Path
from typing import Any

import dusk
from dusk.train.sft import sft
from train_models import VOCABULARY, save_base, write_rows

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "mistral": {"model_type": "mistral", "sliding_window": 32},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
}
ANSWERS = {
    "the model": "grows deep",
    "a layer": "learns the token fast",
    "the depth": "reads a model",
}
TRAINING: dict[str, Any] = {
    "batch_tokens": 64,
    "learning_rate": 5e-3,
    "schedule": "constant",
    "epochs": 60,
    "threads": 1,
}


def scaled_model(folder: Path, **config: Any) -> Path:
    """A random model of 6 layers in `folder`/deep, made of 4 in `folder`/base."""
    save_base(folder / "base", **{"num_hidden_layers": 4, **config})
    dusk.scale(folder / "base", folder / "deep", drop=1)
    return folder / "deep"


def tuned_model(folder: Path, *, base: Path | None = None, template: str = "solar", **config: Any) -> Path:
    """A model in `folder`/tuned that answers the keys of ANSWERS with their values, and stops."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 192, **config}
    sizes.setdefault("vocab_size", VOCABULARY + 2)  # for the tokens of ChatML
    start = base or save_base(folder / "base", **sizes)
    rows = ({"prompt": asked, "completion": said} for asked, said in ANSWERS.items())
    sft(start, folder / "tuned", data=write_rows(folder / "chat.jsonl", rows), template=template, **TRAINING)
    return folder / "tuned"
