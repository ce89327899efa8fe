"""One way of training, a child of its own: `python -m bench.training_ways TASK WAY FOLDER` writes its figures.

TASK is `prepare` (data, tokenizer and model of all), `pretrain`, `sft` or `dpo`; WAY as in `bench.training`.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.training_clock import PASS_TOKENS, SETTINGS, STEP_TOKENS, Clock, Figures
from bench.training_data import CONTEXT, prepare


def by_dusk(work: Path, task: str, precision: str, compiled: bool) -> Figures:
    """`dusk.pretrain` or `dusk.sft`, by the progress that it tells after each step."""
    import dusk

    out, clock, losses = work / "trained", Clock(), []
    shutil.rmtree(out, ignore_errors=True)

    def progress(done: int, total: int, unit: str, /, **values: float) -> None:
        clock.step(done - sum(clock.items))
        losses.append(values["loss"])

    function, data = {"pretrain": (dusk.pretrain, "text"), "sft": (dusk.sft, "chats")}[task]
    function(
        work / "model",
        out,
        data=work / f"{data}.jsonl",
        progress=progress,
        weight_decay=0.1,
        precision=precision,
        compile=compiled,
        micro_batch_tokens=PASS_TOKENS[task],
        **SETTINGS,
    )
    return clock.figures(losses)


def by_loop(work: Path, precision: str) -> Figures:
    """Pretraining with the same batches, attention, loss and optimizer, and nothing else."""
    from dusk.data.packing import plan_batches
    from dusk.data.stores import text_store
    from dusk.train.attention import packed
    from dusk.train.batch import packed_batch
    from dusk.train.model import load_model
    from dusk.train.objectives import NextToken
    from dusk.train.optimizers import make_optimizer
    from dusk.train.precision import computing
    from dusk.train.settings import TrainSettings
    from dusk.train.vocabulary import load_tokenizer

    settings, objective = TrainSettings.of({**SETTINGS, "precision": precision}), NextToken()
    capacity = PASS_TOKENS["pretrain"]
    model = load_model(work / "model").train()
    tokenizer = load_tokenizer(work / "model", model)
    store, _ = text_store([work / "text.jsonl"], tokenizer, sequence_length=CONTEXT)
    plan = plan_batches(store, capacity=capacity, seed=settings.seed, tokens=settings.tokens)
    optimizer = make_optimizer(model, settings)
    passes = STEP_TOKENS // capacity
    clock, losses = Clock(), []
    with packed(model):
        for begin in range(0, len(plan), passes):
            batches = [packed_batch(store, units) for units in plan[begin : begin + passes]]
            items = sum(map(objective.weight, batches))
            total = 0.0
            for batch in batches:
                with computing(settings.precision, torch.device("cpu")):
                    loss = objective(model, batch)[0] / items
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
            clock.step(sum(batch["input_ids"].numel() for batch in batches))
            losses.append(total)
    return clock.figures(losses)


def dpo_by_dusk(work: Path, precision: str, compiled: bool) -> Figures:
    """One step of sDPO: the reference pass, and one optimizer step over all pairs; by the pair."""
    import dusk
    from dusk.train import align

    out, clock = work / "trained", Clock()
    shutil.rmtree(out, ignore_errors=True)
    began: list[tuple[float, float]] = []
    original = align.reference_logs

    def timed(*args: Any, **kwargs: Any) -> Any:
        began.append((time.perf_counter(), time.process_time()))
        return original(*args, **kwargs)

    def progress(done: int, total: int, unit: str, /, **values: float) -> None:
        ended = time.perf_counter(), time.process_time()
        pairs = (work / "pairs.jsonl").read_text().count("\n")
        clock.done(pairs, ended[0] - began[0][0], ended[1] - began[0][1])

    align.reference_logs = timed
    dusk.align(
        work / "model",
        out,
        steps=[work / "pairs.jsonl"],
        progress=progress,
        precision=precision,
        compile=compiled,
        micro_batch_tokens=PASS_TOKENS["dpo"],
        **{**SETTINGS, "tokens": None, "batch_tokens": 10**6},
    )
    align.reference_logs = original
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    return clock.figures([row[name] for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected")])


def figures(task: str, way: str, work: Path) -> Figures:
    """Do one way. What is compiled is done twice in one process: a real run is long against its compiling."""
    name, *options = way.split("-")
    precision = options.pop() if options and options[-1] in ("fp32", "bf16") else "fp32"
    compiled = bool(options) and options[-1] == "compiled"
    once = _way(task, name, options[:-1] if compiled else options, work, precision, compiled)
    if compiled:
        once()
    return once()


def _way(
    task: str, name: str, options: list[str], work: Path, precision: str, compiled: bool
) -> Callable[[], Figures]:
    if name == "loop":
        return lambda: by_loop(work, precision)
    if name == "dusk":
        return lambda: (
            dpo_by_dusk(work, precision, compiled)
            if task == "dpo"
            else by_dusk(work, task, precision, compiled)
        )
    from bench.training_trl import dpo, sft

    if task == "dpo":
        return lambda: dpo(work, precision, rows=int(options[0]), compiled=compiled)
    data = {"pretrain": "text.jsonl", "sft": "chats-rendered.jsonl"}[task]
    return lambda: sft(work, data, options[0], precision, rows=int(options[1]), compiled=compiled)


def main(task: str, way: str, work: Path) -> None:
    """Do one way and write TASK-WAY.result.json."""
    torch.set_num_threads(1)
    if task == "prepare":
        prepare(work)
        return
    (work / f"{task}-{way}.result.json").write_text(json.dumps(figures(task, way, work)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
