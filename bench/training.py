"""Pretraining tokens a second: dusk's trainer beside a bare loop and TRL, one thread, in turn."""

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from bench.measure import PYTHON, Run, in_turn, measured
from bench.table import Goal, Table, Way, at_least

NAME = "training"
_WAYS = ("dusk", "loop", "trl-bfd", "trl-wrapped")
Figures = dict[str, list[float]]
Told = dict[str, list[Figures]]
_LOOP, _DUSK = "loop", "dusk"
_NOTES = (
    "8 layers, hidden 64 (recipes/base/config.json), float32, one thread; steps of 8,192 tokens in two passes; "
    "the first two steps of each process are not counted.",
    "With one thread both tables should agree on a quiet machine; processor time leaves out what others took.",
    "`loop` is the same packed batches, attention, loss and AdamW without a trainer.",
    "`trl-bfd` and `trl-wrapped` are SFTTrainer with its two kinds of packing, in passes of 1,024 and 4,096 "
    "tokens; wrapped cuts one stream into rows without regard to documents. Their batches and losses are others "
    "than ours.",
)


def bench(work: Path, rounds: int) -> list[Table]:
    """A child a way and round; its own figures, not its wall time, which is mostly imports."""
    measured([PYTHON, "-m", "bench.training_ways", "prepare", str(work)], work / "log")
    told: Told = {way: [] for way in _WAYS}
    runs = in_turn({way: _child(way, work, told[way]) for way in _WAYS}, rounds, warm_up=0)
    tables = [_table(by, told, runs, work) for by in ("seconds", "processor_seconds")]
    clock, processor = tables
    return [clock, replace(processor, goals=_goals(processor), notes=(*_NOTES, _losses(told)))]


def _table(by: str, told: Told, runs: dict[str, list[Run]], work: Path) -> Table:
    ways = tuple(_way(way, by, told[way], runs[way], work) for way in _WAYS)
    title = {"seconds": "by the clock", "processor_seconds": "by processor time"}[by]
    return Table(f"Pretraining, {title}", "tokens/s", _LOOP, ways)


def _child(way: str, work: Path, told: list[Figures]) -> Callable[[], Run]:
    def run() -> Run:
        done = measured(_command(way, work), work / "log")
        told.append(json.loads((work / f"{way}.result.json").read_text()))
        return done

    return run


def _command(way: str, work: Path) -> list[str]:
    return [PYTHON, "-m", "bench.training_ways", way, str(work)]


def _way(way: str, by: str, told: list[Figures], runs: list[Run], work: Path) -> Way:
    speeds = tuple(
        median(tokens / seconds for tokens, seconds in zip(one["tokens"], one[by], strict=True))
        for one in told
    )
    return Way(way, shlex.join(_command(way, work)), speeds, max(run.peak_bytes for run in runs))


def _goals(table: Table) -> tuple[Goal, ...]:
    best = max((way for way in table.ways if way.name.startswith("trl")), key=lambda way: median(way.values))
    by_trl = replace(table, beside=best.name).ratio(_DUSK)
    return (
        at_least("within 3 % of the bare loop, by processor time", table.ratio(_DUSK), 0.97),
        at_least(f"at least 1.4 times TRL's faster packing ({best.name}), by processor time", by_trl, 1.4),
    )


def _losses(told: Told) -> str:
    ours, loops = told[_DUSK][0]["losses"], told[_LOOP][0]["losses"]
    equal = len(ours) == len(loops) and all(map(partial(math.isclose, rel_tol=1e-5), ours, loops))
    first_last = f"{ours[0]:.4f} to {ours[-1]:.4f} and {loops[0]:.4f} to {loops[-1]:.4f}"
    return f"Losses of dusk and loop {'are equal (1e-5)' if equal else 'DIFFER'} in each step: {first_last}."
