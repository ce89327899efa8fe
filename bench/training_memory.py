"""The peak memory of training runs, in a process of its own, beside what `dusk budget` says it is.

    python -m bench.training_memory     one JSON line a run: bytes measured, and said

glibc keeps what is freed in its heap, and how much depends on the order of sizes (about a quarter more here); with
a fixed threshold it returns every large block, and what is measured is what the training holds.
"""

import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dusk.budget.cost import Work, memory
from dusk.budget.shape import Shape

DOCUMENT = 128
BASE = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
}
CASES: list[dict[str, Any]] = [
    {"passes": 2, "tokens": 1024},
    {"passes": 1, "tokens": 1024},
    {"passes": 2, "tokens": 1024, "gradient_checkpointing": True},
    {"passes": 2, "tokens": 512, "vocab_size": 32000, "num_hidden_layers": 4},
    {"passes": 2, "tokens": 512, "hidden_size": 512, "num_hidden_layers": 4},
    {"passes": 2, "tokens": 512, "hidden_size": 512, "num_hidden_layers": 4, "optimizer": "adamw-bf16"},
    {
        "passes": 1,
        "tokens": 256,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "optimizer": "adamw-bf16",
        "update_in_backward": True,
    },
]
_RESET_PEAK = "5"


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def run(passes: int, tokens: int, **more: Any) -> dict[str, int]:
    """Train two steps; bytes beyond what was there before, and the budget's figure.

    `more`: sizes of the model, and settings of training.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from dusk.data.packing import TokenDocument, build_store
    from dusk.train.fit import fit
    from dusk.train.loss import CHUNK_ELEMENTS
    from dusk.train.objectives import NextToken
    from dusk.train.settings import TrainSettings

    config = {name: more.get(name, size) for name, size in BASE.items()}
    given = {name: value for name, value in more.items() if name not in BASE}
    random = np.random.default_rng(0)
    documents = [
        TokenDocument(random.integers(config["vocab_size"], size=DOCUMENT).tolist(), [True] * DOCUMENT)
        for _ in range(2 * passes * tokens // DOCUMENT)
    ]
    settings = TrainSettings(
        batch_tokens=passes * tokens,
        micro_batch_tokens=tokens,
        precision="fp32",
        grad_clip=0.0 if more.get("update_in_backward") else 1.0,
        threads=1,
        **given,
    )
    gc.collect()
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    model = LlamaForCausalLM(LlamaConfig(**config))
    if settings.weights == "bf16":
        model.to(torch.bfloat16)  # as the commands do
    with tempfile.TemporaryDirectory() as folder:
        rates = {name: 1.0 for name, _ in model.named_parameters()}
        fit(model, build_store(documents), NextToken(), settings, Path(folder), rates=rates)
    work = Work(Shape.of(config), None, passes * tokens, tokens, DOCUMENT, "fp32", **given)
    return {
        "measured": _status_bytes("VmHWM") - before,
        "said": memory(work, 1, chunk_elements=CHUNK_ELEMENTS["cpu"]).total,
    }


def measured() -> Iterator[dict[str, Any]]:
    """All cases, after a run that is only there to load what is loaded once."""
    run(1, DOCUMENT, hidden_size=16, intermediate_size=16, num_hidden_layers=1)
    for case in CASES:
        yield {**case, **run(**case)}


if __name__ == "__main__":
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") != "65536":
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # read when a process starts
        os.execv(sys.executable, [sys.executable, "-m", "bench.training_memory"])
    for found in measured():
        print(json.dumps(found), flush=True)
