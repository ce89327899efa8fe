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
    """`dusk.pretrain`, by the steps that it records."""
    import dusk

    out = work / "trained"
    shutil.rmtree(out, ignore_errors=True)
    dusk.pretrain(work / "model", out, data=work / "data.jsonl", **SETTINGS)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows]
    return _figures([row["tokens_per_second"] * row["seconds"] for row in rows], seconds, rows)


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
    tokens, seconds, rows = [], [], []
    with packed(model):
        for begin in range(0, len(plan), passes):
            began = time.perf_counter()
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
            seconds.append(time.perf_counter() - began)
            tokens.append(float(sum(batch["input_ids"].numel() for batch in batches)))
            rows.append({"loss": total})
    return _figures(tokens, seconds, rows)


def by_trl(work: Path, packing_strategy: str) -> dict[str, list[float]]:
    """SFTTrainer with packing on the same documents; tokens as the collator hands them over."""
    warnings.filterwarnings("ignore")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends, tokens = [], []
    passes = STEP_TOKENS // (TRL_ROWS[packing_strategy] * CONTEXT)

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            tokens.append(float(inputs["input_ids"].numel()))
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
        callbacks=[Clock()],
    )
    began = time.perf_counter()
    trainer.train()
    per_step = [sum(tokens[at : at + passes]) for at in range(0, len(tokens), passes)]
    seconds = [end - before for before, end in zip([began, *ends], ends, strict=False)]
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return _figures(per_step, seconds, rows)


def _figures(tokens: list[float], seconds: list[float], rows: list[Any]) -> dict[str, list[float]]:
    losses = [float(row["loss"]) for row in rows]
    return {"tokens": tokens[WARM_STEPS:], "seconds": seconds[WARM_STEPS:], "losses": losses}


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
