"""Training on one large GPU: `python -m bench --only training-gpu`; without one it says what would be measured.

A model of 1.1B parameters scaled to 1.5B, continued beside TRL's SFTTrainer on the same texts; and SOLAR 10.7B's
shape trained in full. Random weights, texts as long as the context, so neither has padding or documents to part.
"""

import json
import random
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.checkpoints import LARGE, MISTRAL, random_checkpoint
from bench.measure import PYTHON, measured
from bench.table import Goal, Table, Way, at_least, at_most
from bench.training_data import save_tokenizer

NAME = "training-gpu"
_SMALL = LARGE | {"num_hidden_layers": 22, "vocab_size": 32000, "max_position_embeddings": 4096}
_WARM_UP = 2  # steps that are not counted: kernels are chosen, and compiled
_TIMES_TRL, _MFU, _TOKENS_A_SECOND, _GIB = 1.3, 0.5, 5300.0, 141e9 / 2**30


@dataclass(frozen=True)
class Size:
    """A model and how it is trained; `drop` scales it first."""

    config: dict[str, Any]
    drop: int
    context: int
    pass_tokens: int
    passes: int
    steps: int
    settings: dict[str, Any]


SIZES = {
    "1.5b": Size(_SMALL, 6, 4096, 16384, 4, 6, {}),
    "10.7b": Size(
        MISTRAL | {"max_position_embeddings": 4096},
        8,
        4096,
        16384,
        1,
        6,
        {
            "optimizer": "adamw-bf16",
            "weights": "bf16",
            "gradient_checkpointing": True,
            "update_in_backward": True,
            "grad_clip": 0.0,
        },
    ),
}
WAYS = {"1.5b": ("dusk", "dusk-compiled", "trl", "trl-compiled"), "10.7b": ("dusk", "dusk-compiled")}


def bench(work: Path, rounds: int) -> Iterator[Table]:
    """A child a way and round."""
    for name in SIZES:
        yield _table(name, work, rounds)


def _table(name: str, work: Path, rounds: int) -> Table:
    told: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS[name]}
    present = _has_gpu()
    if present:
        prepare(SIZES[name], work)
        for _ in range(rounds):
            for way, figures in told.items():
                measured(_command(name, way, work), work / "log")
                figures.append(json.loads((work / f"{way}.json").read_text()))
        for made in ("base", "model"):
            shutil.rmtree(work / made, ignore_errors=True)
    ways = tuple(
        Way(
            way,
            shlex.join(_command(name, way, work)),
            tuple(run["tokens_per_second"] for run in told[way]),
            max((int(run["peak_bytes"]) for run in told[way]), default=None),
            missing="" if present else "no CUDA device",
        )
        for way in WAYS[name]
    )
    table = Table(f"Training {name}, one GPU", "tokens/s", "dusk", ways)
    best = max(
        (run["mfu"] for way in WAYS[name] if way.startswith("dusk") for run in told[way]), default=None
    )
    return Table(table.title, table.unit, table.beside, ways, goals=_goals(name, table, best))


def _has_gpu() -> bool:
    import torch  # in the runner it would count as every child's memory

    return torch.cuda.is_available()


def _goals(name: str, table: Table, mfu: float | None) -> tuple[Goal, ...]:
    def best(kind: str) -> float | None:
        return max(
            (median(w.values) for w in table.ways if w.name.startswith(kind) and w.values), default=None
        )

    ours, theirs = best("dusk"), best("trl")
    if name == "1.5b":
        times = None if ours is None or theirs is None else ours / theirs
        return (
            at_least("share of the peak, causal attention counted as half", mfu, _MFU),
            at_least("times TRL's best", times, _TIMES_TRL),
        )
    peak = table.peak_mib("dusk")
    return (
        at_most("peak GPU memory in GiB, one GPU of 141 GB", None if peak is None else peak / 1024, _GIB),
        at_least("tokens/s of the 10.7B shape in full", ours, _TOKENS_A_SECOND),
    )


def _command(name: str, way: str, work: Path) -> list[str]:
    return [PYTHON, "-m", "bench.training_gpu", name, way, str(work)]


def prepare(size: Size, work: Path) -> None:
    """The scaled model with a tokenizer whose tokens are words, and texts of just the context."""
    import dusk

    base = random_checkpoint(work, "base", 0, size.config)
    dusk.scale(base, work / "model", drop=size.drop)
    vocabulary = int(size.config["vocab_size"])
    save_tokenizer(work / "model", vocabulary, size.context)
    chance, words = random.Random(0), size.context - 1  # and the end
    count = size.pass_tokens * size.passes * size.steps // size.context
    texts = (" ".join(f"w{chance.randrange(vocabulary - 8)}" for _ in range(words)) for _ in range(count))
    (work / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def by_dusk(size: Size, work: Path, compiled: bool) -> dict[str, float]:
    """`dusk.pretrain`; its own metrics after the first steps."""
    import dusk

    out = work / "trained"
    shutil.rmtree(out, ignore_errors=True)
    dusk.pretrain(
        work / "model",
        out,
        data=work / "text.jsonl",
        batch_tokens=size.pass_tokens * size.passes,
        micro_batch_tokens=size.pass_tokens,
        sequence_length=size.context,
        schedule="constant",
        learning_rate=1e-5,
        save_every_seconds=1e6,
        compile=compiled,
        **size.settings,
    )
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"][_WARM_UP:]
    shutil.rmtree(out)
    return {
        "tokens_per_second": median(row["tokens_per_second"] for row in steps),
        "mfu": median(row.get("mfu", 0.0) for row in steps),
        "peak_bytes": steps[-1]["memory_bytes"],
    }


def by_trl(size: Size, work: Path, compiled: bool) -> dict[str, float]:
    """SFTTrainer, packed, with as many tokens a pass and a step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from dusk.train.metrics import peak_memory_bytes

    ends: list[float] = []

    class Ticking(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(work / "trl"),
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            max_length=size.context,
            packing=True,
            packing_strategy="wrapped",
            max_steps=size.steps,
            per_device_train_batch_size=size.pass_tokens // size.context,
            gradient_accumulation_steps=size.passes,
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            torch_compile=compiled,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_json(str(work / "text.jsonl"), cache_dir=str(work / "cache")),
        processing_class=AutoTokenizer.from_pretrained(work / "model"),
        callbacks=[Ticking()],
    )
    trainer.train()
    seconds = [after - before for before, after in zip(ends[_WARM_UP - 1 :], ends[_WARM_UP:], strict=False)]
    tokens = size.pass_tokens * size.passes
    return {"tokens_per_second": tokens / median(seconds), "mfu": 0.0, "peak_bytes": peak_memory_bytes()}


def figures(size: Size, way: str, work: Path) -> dict[str, float]:
    """Do one way."""
    name, _, compiled = way.partition("-")
    return {"dusk": by_dusk, "trl": by_trl}[name](size, work, bool(compiled))


if __name__ == "__main__":
    found = figures(SIZES[sys.argv[1]], sys.argv[2], Path(sys.argv[3]))
    (Path(sys.argv[3]) / f"{sys.argv[2]}.json").write_text(json.dumps(found))
