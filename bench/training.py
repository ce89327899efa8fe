"""Training beside a bare loop and TRL, one thread, in turn: pretraining, tuning, and one step of sDPO."""

import json
import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from bench.measure import PYTHON, Run, in_turn, measured
from bench.table import Goal, Table, Way, at_least, at_most

NAME = "training"
Figures = dict[str, list[float]]
Told = dict[str, list[Figures]]
_DUSK, _LOOP = "dusk-bf16", "loop-bf16"
_COMPILED = "dusk-compiled-bf16"
_NOTES = (
    "8 layers of width 256, 8.4M parameters, bf16 under autocast, one thread; texts of the lengths of C4, "
    "Alpaca-GPT4 and Ultrafeedback (bench/lengths.py). Processor time leaves out what others took of the machine.",
)


@dataclass(frozen=True)
class Task:
    """One kind of training: its ways, its unit, the way beside it, and how many times TRL it is to reach."""

    name: str
    title: str
    unit: str
    ways: tuple[str, ...]
    beside: str
    of_trl: float
    tolerance: float
    notes: tuple[str, ...]


TASKS = (
    Task(
        "pretrain",
        "Pretraining",
        "tokens/s",
        (_DUSK, _COMPILED, _LOOP, "trl-bfd-1-bf16", "trl-wrapped-4-bf16", "trl-wrapped-4-compiled-bf16"),
        _LOOP,
        1.4,
        1e-5,
        (
            "Steps of 8,192 tokens; `loop` is the same batches, attention, loss and AdamW without a trainer.",
            "`trl-bfd-N` and `trl-wrapped-N` are SFTTrainer's two kinds of packing in passes of N rows of 1,024; "
            "wrapped cuts one stream into rows without regard to documents. Their batches are others than ours.",
        ),
    ),
    Task(
        "sft",
        "Tuning on answers",
        "tokens/s",
        (_DUSK, _COMPILED, "trl-bfd-1-bf16", "trl-bfd-4-bf16", "trl-bfd-1-compiled-bf16"),
        "trl-bfd-1-bf16",
        1.4,
        math.inf,
        ("Packed; losses equal TRL's in tests/test_train_trl.py, batches here are of other documents.",),
    ),
    Task(
        "dpo",
        "One step of sDPO",
        "pairs/s",
        (_DUSK, _COMPILED, "trl-1-bf16", "trl-4-bf16", "trl-1-compiled-bf16"),
        "trl-1-bf16",
        2.0,
        1e-3,
        (
            "24 pairs in one update, reference pass included; `trl-N` is DPOTrainer with precomputed reference in "
            "passes of N pairs (padded; its padding_free is switched off in 1.16).",
        ),
    ),
)


def bench(work: Path, rounds: int) -> Iterator[Table]:
    """A child a way and round; its own figures, not its wall time, which is mostly imports."""
    measured([PYTHON, "-m", "bench.training_ways", "prepare", "all", str(work)], work / "log")
    for task in TASKS:
        yield from _tables(task, work, rounds)


def _tables(task: Task, work: Path, rounds: int) -> list[Table]:
    told: Told = {way: [] for way in task.ways}
    ways = {way: _child(task, way, work, told[way]) for way in task.ways}
    runs = in_turn(ways, rounds, warm_up=0)
    clock, processor = (_table(task, by, told, runs, work) for by in ("seconds", "processor_seconds"))
    notes = (*_NOTES, *task.notes, *_losses(task, told))
    return [clock, replace(processor, goals=_goals(task, processor), notes=notes)]


def _table(task: Task, by: str, told: Told, runs: dict[str, list[Run]], work: Path) -> Table:
    ways = tuple(_way(task, way, by, told[way], runs[way], work) for way in task.ways)
    clock = {"seconds": "by the clock", "processor_seconds": "by processor time"}[by]
    return Table(f"{task.title}, {clock}", task.unit, task.beside, ways)


def _child(task: Task, way: str, work: Path, told: list[Figures]) -> Callable[[], Run]:
    def run() -> Run:
        done = measured(_command(task, way, work), work / "log")
        told.append(json.loads((work / f"{task.name}-{way}.result.json").read_text()))
        return done

    return run


def _command(task: Task, way: str, work: Path) -> list[str]:
    return [PYTHON, "-m", "bench.training_ways", task.name, way, str(work)]


def _way(task: Task, way: str, by: str, told: list[Figures], runs: list[Run], work: Path) -> Way:
    speeds = tuple(
        median(items / seconds for items, seconds in zip(one["items"], one[by], strict=True)) for one in told
    )
    command = shlex.join(_command(task, way, work))
    return Way(way, command, speeds, max(run.peak_bytes for run in runs))


def _goals(task: Task, table: Table) -> tuple[Goal, ...]:
    best = max((way for way in table.ways if way.name.startswith("trl")), key=lambda way: median(way.values))
    by_trl = replace(table, beside=best.name).ratio(_DUSK)
    ours, theirs = table.peak_mib(_DUSK), table.peak_mib(best.name)
    assert ours is not None
    assert theirs is not None
    goals = [
        at_least(
            f"{task.of_trl:g} times TRL's fastest ({best.name}), by processor time",
            by_trl,
            task.of_trl,
        ),
        at_most("at most the peak memory of that way, as a part of it", ours / theirs, 1.0),
    ]
    if task.beside == _LOOP:
        goals.insert(0, at_least("within 3 % of the bare loop, by processor time", table.ratio(_DUSK), 0.97))
    return tuple(goals)


def _losses(task: Task, told: Told) -> list[str]:
    """What must be the same as of the way beside."""
    if math.isinf(task.tolerance):
        return []
    ours, others = told[_DUSK][0]["losses"], told[task.beside][0]["losses"]
    close = partial(math.isclose, rel_tol=task.tolerance)
    equal = len(ours) == len(others) and all(map(close, ours, others))
    what = "Loss, gradient norm and log-probabilities" if task.name == "dpo" else "Losses of each step"
    told_as = "are equal" if equal else "DIFFER"
    shown = " and ".join(
        ", ".join(f"{value:.4f}" for value in (some[0], some[-1])) for some in (ours, others)
    )
    return [f"{what} of {_DUSK} and {task.beside} {told_as} ({task.tolerance:g}): first and last {shown}."]
