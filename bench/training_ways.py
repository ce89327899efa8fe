"""One way of training, a child of its own: `python -m bench.training_ways WAY FOLDER` writes its figures.

WAY is `prepare` (data, tokenizer and model of all ways), `dusk`, `loop`, `trl-bfd` or `trl-wrapped`.
"""

import json
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

STEPS, WARM_STEPS = 14, 2
STEP_TOKENS, PASS_TOKENS, CONTEXT = 8192, 4096, 256
SETTINGS: dict[str, Any] = {
    "tokens": STEPS * STEP_TOKENS,
    "batch_tokens": STEP_TOKENS,
    "micro_batch_tokens": PASS_TOKENS,
    "sequence_length": CONTEXT,
    "schedule": "constant",
    "warmup": 0.0,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "threads": 1,
}
TRL_ROWS = {
    "bfd": 4,
    "wrapped": PASS_TOKENS // CONTEXT,
}  # of one pass; a row of more documents slows bfd down
_CONFIG = Path(__file__).parent.parent / "recipes/base/config.json"


class Clock:
    """The ends of steps by the clock and by processor time, which another process on the core does not change."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.tokens: list[float] = []

    def step(self, tokens: float) -> None:
        """A step of so many tokens has ended."""
        self.ends.append((time.perf_counter(), time.process_time()))
        self.tokens.append(tokens)

    def figures(self, losses: list[float]) -> dict[str, list[float]]:
        """Tokens and seconds of each step after the warm ones, and the losses of all."""
        spans = list(zip(self.ends[WARM_STEPS - 1 :], self.ends[WARM_STEPS:], strict=False))
        return {
            "tokens": self.tokens[WARM_STEPS:],
            "seconds": [end[0] - begin[0] for begin, end in spans],
            "processor_seconds": [end[1] - begin[1] for begin, end in spans],
            "losses": losses,
        }


def prepare(work: Path) -> None:
    """Paragraphs of Python's own reference as documents; a random model with a tokenizer of its own."""
    from pydoc_data.topics import topics

    from transformers import AutoConfig, AutoModelForCausalLM

    from dusk.data.tokenizer import save_tokenizer, train_tokenizer

    paragraphs = [part.strip() for text in topics.values() for part in text.split("\n\n")]
    texts = sorted({part for part in paragraphs if 100 <= len(part) <= 600})
    (work / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = AutoConfig.from_pretrained(_CONFIG)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(work / "model")
    save_tokenizer(train_tokenizer(texts, config.vocab_size), work / "model", context=CONTEXT)


def by_dusk(work: Path) -> dict[str, list[float]]:
    """`dusk.pretrain`, by the progress that it tells after each step."""
    import dusk

    out, clock, losses = work / "trained", Clock(), []
    shutil.rmtree(out, ignore_errors=True)

    def progress(done: int, total: int, unit: str, /, **values: float) -> None:
        clock.step(done - sum(clock.tokens))
        losses.append(values["loss"])

    dusk.pretrain(work / "model", out, data=work / "data.jsonl", progress=progress, **SETTINGS)
    return clock.figures(losses)


def by_loop(work: Path) -> dict[str, list[float]]:
    """The same batches, attention, loss and optimizer, and nothing else."""
    from dusk.data.packing import plan_batches
    from dusk.data.stores import text_store
    from dusk.train.attention import packed
    from dusk.train.batch import packed_batch
    from dusk.train.model import load_model
    from dusk.train.objectives import NextToken
    from dusk.train.optimizers import make_optimizer
    from dusk.train.settings import TrainSettings
    from dusk.train.vocabulary import load_tokenizer

    settings, objective = TrainSettings.of(SETTINGS), NextToken()
    model = load_model(work / "model").train()
    tokenizer = load_tokenizer(work / "model", model)
    store, _ = text_store([work / "data.jsonl"], tokenizer, sequence_length=CONTEXT)
    plan = plan_batches(store, capacity=PASS_TOKENS, seed=settings.seed, tokens=settings.tokens)
    optimizer = make_optimizer(model, settings)
    passes = STEP_TOKENS // PASS_TOKENS
    clock, losses = Clock(), []
    with packed(model):
        for begin in range(0, len(plan), passes):
            batches = [packed_batch(store, units) for units in plan[begin : begin + passes]]
            items = sum(map(objective.weight, batches))
            total = 0.0
            for batch in batches:
                loss = objective(model, batch)[0] / items
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
            clock.step(sum(batch["input_ids"].numel() for batch in batches))
            losses.append(total)
    return clock.figures(losses)


def by_trl(work: Path, packing_strategy: str) -> dict[str, list[float]]:
    """SFTTrainer with packing on the same documents; tokens as the collator hands them over."""
    warnings.filterwarnings("ignore")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    clock, seen = Clock(), [0.0]
    passes = STEP_TOKENS // (TRL_ROWS[packing_strategy] * CONTEXT)

    class Ticking(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step(seen.pop())
            seen.append(0.0)

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen[0] += inputs["input_ids"].numel()
            return super().training_step(model, inputs, *args, **kwargs)

    settings = SFTConfig(
        output_dir=str(work / "trl"),
        packing=True,
        packing_strategy=packing_strategy,
        max_length=CONTEXT,
        max_steps=STEPS,
        per_device_train_batch_size=TRL_ROWS[packing_strategy],
        gradient_accumulation_steps=passes,
        learning_rate=SETTINGS["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta2=0.95,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = Counting(
        model=AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32),
        args=settings,
        train_dataset=Dataset.from_json(str(work / "data.jsonl")),
        processing_class=AutoTokenizer.from_pretrained(work / "model"),
        callbacks=[Ticking()],
    )
    trainer.train()
    return clock.figures([float(row["loss"]) for row in trainer.state.log_history if "loss" in row])


def main(way: str, work: Path) -> None:
    """Do one way and write WAY.result.json."""
    torch.set_num_threads(1)
    if way == "prepare":
        prepare(work)
        return
    if way.startswith("trl-"):
        figures = by_trl(work, way.removeprefix("trl-"))
    else:
        figures = by_dusk(work) if way == "dusk" else by_loop(work)
    (work / f"{way}.result.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
