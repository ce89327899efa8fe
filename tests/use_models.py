"""A tiny model that has learnt a few answers by heart, and to stop behind them."""

from pathlib import Path
from typing import Any

from dusk.train.sft import sft
from train_models import VOCABULARY, save_base, write_rows

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


def tuned_model(folder: Path, *, template: str = "solar", **config: Any) -> Path:
    """A model in `folder`/tuned that answers the keys of ANSWERS with their values, and stops."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 192, **config}
    sizes.setdefault("vocab_size", VOCABULARY + 2)  # for the tokens of ChatML
    base = save_base(folder / "base", **sizes)
    rows = ({"prompt": asked, "completion": said} for asked, said in ANSWERS.items())
    sft(base, folder / "tuned", data=write_rows(folder / "chat.jsonl", rows), template=template, **TRAINING)
    return folder / "tuned"
