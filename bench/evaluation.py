"""Log-likelihoods of MMLU with 5 shots and ARC with 25: the prefix tree beside the harness's hf model."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import PYTHON, Run, in_turn, measured
from bench.table import Goal, Table, Way, at_least, at_most

NAME = "evaluation"
_WAYS = ("dusk", "hf-1", "hf-8")
_TITLES = {
    "mmlu": "MMLU, 5 shots, 72 questions of 3 subjects",
    "arc": "ARC-Challenge, 25 shots, 10 questions",
}
_DATA = "DUSK_TEST_DATA"
Told = dict[str, list[dict[str, Any]]]


def bench(work: Path, rounds: int) -> list[Table]:
    """A child a way and round, with its own figures: loading is not counted."""
    data = os.environ.get(_DATA)
    if not data:
        return [_missing(title) for title in _TITLES.values()]
    measured([PYTHON, "-m", "bench.evaluation_ways", "prepare", str(work), data], work / "log")
    tokens = json.loads((work / "tokens.json").read_text())
    told: Told = {way: [] for way in _WAYS}
    runs = in_turn({way: _child(way, work, told[way]) for way in _WAYS}, rounds, warm_up=0)
    return [_table(task, title, told, runs, tokens) for task, title in _TITLES.items()]


def _missing(title: str) -> Table:
    why = f"{_DATA} names no folder of the data sets"
    return Table(title, "CPU s", "hf-1", tuple(Way(way, "", missing=why) for way in _WAYS))


def _child(way: str, work: Path, told: list[dict[str, Any]]) -> Callable[[], Run]:
    def run() -> Run:
        done = measured(_command(way, work), work / "log")
        told.append(json.loads((work / f"{way}.scored.json").read_text()))
        return done

    return run


def _command(way: str, work: Path) -> list[str]:
    return [PYTHON, "-m", "bench.evaluation_ways", way, str(work)]


def _table(
    task: str, title: str, told: Told, runs: dict[str, list[Run]], tokens: dict[str, dict[str, int]]
) -> Table:
    ways = tuple(
        Way(
            way,
            shlex.join(_command(way, Path("W"))),
            tuple(one[task]["processor_seconds"] for one in told[way]),
            max(run.peak_bytes for run in runs[way]),
        )
        for way in _WAYS
    )
    table = Table(title, "CPU s", "hf-1", ways)
    faster = min(_WAYS[1:], key=lambda way: table.middle(way) or 0)
    bound = {each: count["hf"] / count["dusk"] for each, count in tokens.items()}
    wall = {way: median(one[task]["seconds"] for one in told[way]) for way in _WAYS}
    goals: tuple[Goal, ...] = (
        at_least(
            f"at least 3 times as fast as {faster}, the faster of hf", table.speed_up("dusk", faster), 3.0
        ),
        at_most("the same log-likelihoods to 1e-4", _furthest(task, told), 1e-4),
    )
    notes = (
        f"By the clock: {', '.join(f'{way} {seconds:.1f} s' for way, seconds in wall.items())}.",
        f"Tokens through the model: {tokens[task]['dusk']:,} of hf's {tokens[task]['hf']:,}. hf's over dusk's by "
        f"task: {', '.join(f'{each} {ratio:.2f}' for each, ratio in bound.items())}.",
        "Random Llama, 6 layers of width 192, vocabulary 2,048, float32, one thread; `hf-8` has batches of 8.",
    )
    return Table(title, "CPU s", "hf-1", ways, goals=goals, notes=notes)


def _furthest(task: str, told: Told) -> float:
    ours, theirs = told["dusk"][0][task]["logs"], told["hf-1"][0][task]["logs"]
    return max(map(abs, (a - b for a, b in zip(ours, theirs, strict=True))))
