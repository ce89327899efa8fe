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
_LOOP, _DUSK = "loop", "dusk"
_NOTES = (
    "8 layers, hidden 64 (recipes/base/config.json), float32, one thread; steps of 8,192 tokens in two passes; "
    "the first two steps of each process are not counted.",
    "`loop` is the same packed batches, attention, loss and AdamW without a trainer.",
    "`trl-bfd` and `trl-wrapped` are SFTTrainer with its two kinds of packing, in passes of 1,024 and 4,096 "
    "tokens: on a CPU bfd's documents share one row and its attention grows with the square of that; wrapped cuts "
    "one stream into rows and attends across documents. Their batches and losses are others than ours.",
)


def bench(work: Path, rounds: int) -> list[Table]:
    """A child a way and round; its own figures, not its wall time, which is mostly imports."""
    measured([PYTHON, "-m", "bench.training_ways", "prepare", str(work)], work / "log")
    told: dict[str, list[dict[str, list[float]]]] = {way: [] for way in _WAYS}
    runs = in_turn({way: _child(way, work, told[way]) for way in _WAYS}, rounds, warm_up=0)
    ways = tuple(_way(way, told[way], runs[way], work) for way in _WAYS)
    table = Table("Pretraining", "tokens/s", _LOOP, ways)
    return [replace(table, goals=_goals(table), notes=(*_NOTES, _losses(told)))]


def _child(way: str, work: Path, told: list[dict[str, list[float]]]) -> Callable[[], Run]:
    def run() -> Run:
        done = measured(_command(way, work), work / "log")
        told.append(json.loads((work / f"{way}.result.json").read_text()))
        return done

    return run


def _command(way: str, work: Path) -> list[str]:
    return [PYTHON, "-m", "bench.training_ways", way, str(work)]


def _way(way: str, told: list[dict[str, list[float]]], runs: list[Run], work: Path) -> Way:
    speeds = tuple(
        median(tokens / seconds for tokens, seconds in zip(one["tokens"], one["seconds"], strict=True))
        for one in told
    )
    return Way(way, shlex.join(_command(way, work)), speeds, max(run.peak_bytes for run in runs))


def _goals(table: Table) -> tuple[Goal, ...]:
    best = max((way for way in table.ways if way.name.startswith("trl")), key=lambda way: median(way.values))
    by_trl = replace(table, beside=best.name).ratio(_DUSK)
    return (
        at_least("within 3 % of the bare loop", table.ratio(_DUSK), 0.97),
        at_least(f"at least 1.4 times TRL's best setting ({best.name})", by_trl, 1.4),
    )


def _losses(told: dict[str, list[dict[str, list[float]]]]) -> str:
    ours, loops = told[_DUSK][0]["losses"], told[_LOOP][0]["losses"]
    equal = len(ours) == len(loops) and all(map(partial(math.isclose, rel_tol=1e-5), ours, loops))
    first_last = f"{ours[0]:.4f} to {ours[-1]:.4f} and {loops[0]:.4f} to {loops[-1]:.4f}"
    return f"Losses of dusk and loop {'are equal (1e-5)' if equal else 'DIFFER'} in each step: {first_last}."
