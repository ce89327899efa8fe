"""A tiny model with a tokenizer, data files for it, and how to compare two trained folders."""

import json
import os
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from conftest import save_random_model
from dusk.data.tokenizer import save_tokenizer, train_tokenizer

VOCABULARY = 300
WORDS = [
    "the",
    "a",
    "model",
    "layer",
    "token",
    "depth",
    "learns",
    "reads",
    "grows",
    "deep",
    "fast",
    "slow",
    "falls",
]

# of short trainings
SETTINGS: dict[str, Any] = {"batch_tokens": 128, "sequence_length": 64, "learning_rate": 1e-3, "threads": 1}
TIMES = {"seconds", "tokens_per_second", "memory_bytes"}


def text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def text_file(folder: Path, rows: int = 60, name: str = "text.jsonl", seed: int = 0) -> Path:
    lengths = random.Random(seed)
    return write_rows(folder / name, ({"text": text(lengths.randint(1, 40), seed + i)} for i in range(rows)))


def chat_file(folder: Path, rows: int = 30, name: str = "chat.jsonl") -> Path:
    return write_rows(
        folder / name,
        ({"prompt": f"{text(i % 5 + 1, i)}?", "completion": text(i % 7 + 1, 100 + i)} for i in range(rows)),
    )


def pair_file(folder: Path, rows: int = 24, name: str = "pairs.jsonl", seed: int = 0) -> Path:
    return write_rows(
        folder / name,
        (
            {
                "prompt": text(3, seed + i),
                "chosen": text(4, seed + i + 50),
                "rejected": text(6, seed + i + 90),
            }
            for i in range(rows)
        ),
    )


def save_base(folder: Path, **config: Any) -> Path:
    """A random model with a tokenizer of its vocabulary."""
    defaults = {"model_type": "mistral", "num_hidden_layers": 2, "sliding_window": None}
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 128, "bos_token_id": 0, "eos_token_id": 1}
    save_random_model(folder, **{**defaults, **sizes, **config})
    save_tokenizer(train_tokenizer([text(200, 0)], VOCABULARY), folder, context=128)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def metrics(folder: Path, *, times: bool = False) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows if times else [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


class Killed(Exception):
    """What a test raises in the middle of a run."""


class KillAfter:
    """Progress that ends the run after so many optimizer steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, done: int, total: int, unit: str, /, **values: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def kept_environment() -> dict[str, str]:
    """The environment for a subprocess that runs dusk on one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))
