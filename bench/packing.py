"""Instructions tokenised and packed, beside TRL's preparation of the same rows, template and length."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import PYTHON, Run, in_turn, measured
from bench.packing_ways import CONTEXT
from bench.table import Goal, Table, Way, at_least, paired_ratio

NAME = "packing"
_ROWS = 5_000
_WAYS = ("dusk", "dusk-cache", "trl-chat-1", "trl-text-1", "trl-chat-2", "trl-text-2")
_TITLE = f"{_ROWS:,} instruction rows tokenised and packed to {CONTEXT:,} tokens"
_GOAL = 1.5
_NOTES = (
    "From the file to the batches, without imports. `trl-FORM-N`: SFTTrainer, packing bfd, N processes; `chat` "
    "renders messages by the tokenizer's template, `text` is given prompts that are rendered already; its rows go "
    "to files. `dusk` keeps tokens in memory (threads of the tokenizer), `dusk-cache` writes them to files.",
)
Figures = dict[str, Any]


def bench(work: Path, rounds: int) -> list[Table]:
    """A child a way and round, and its own figures."""
    if not os.environ.get("DUSK_TEST_DATA"):
        why = "DUSK_TEST_DATA names no folder of the data sets"
        return [Table(_TITLE, "CPU s", "dusk", tuple(Way(way, "", missing=why) for way in _WAYS))]
    measured([*_command("prepare", work), "--count", str(_ROWS)], work / "log")
    told: dict[str, list[Figures]] = {way: [] for way in _WAYS}
    runs = in_turn({way: _child(way, work, told[way]) for way in _WAYS}, rounds, warm_up=0)
    clock, processor = (_values(told, by) for by in ("seconds", "processor_seconds"))
    ways = tuple(
        Way(
            way,
            shlex.join(_command(way, work)),
            processor[way],
            max(run.peak_bytes for run in runs[way]),
        )
        for way in _WAYS
    )
    seconds = ", ".join(f"{way} {median(clock[way]):.1f}" for way in _WAYS)
    notes = (f"By the clock, in seconds: {seconds}.", *_same(told), *_NOTES)
    goals = (_goal(processor, "processor time"), _goal(clock, "the clock"))
    return [Table(_TITLE, "CPU s", "dusk", ways, goals=goals, notes=notes)]


def _command(way: str, work: Path) -> list[str]:
    return [PYTHON, "-m", "bench.packing_ways", way, str(work)]


def _child(way: str, work: Path, told: list[Figures]) -> Callable[[], Run]:
    def run() -> Run:
        done = measured(_command(way, work), work / "log")
        told.append(json.loads((work / f"{way}.result.json").read_text()))
        return done

    return run


def _values(told: Mapping[str, list[Figures]], by: str) -> dict[str, tuple[float, ...]]:
    return {way: tuple(one[by] for one in of_way) for way, of_way in told.items()}


def _goal(values: Mapping[str, tuple[float, ...]], by: str) -> Goal:
    """Against the fastest of TRL's ways."""
    best = min((way for way in _WAYS if way.startswith("trl")), key=lambda way: median(values[way]))
    text = f"at least {_GOAL:g} times as fast as {best}, TRL's fastest, by {by}"
    return at_least(text, paired_ratio(values[best], values["dusk"]), _GOAL)


def _same(told: Mapping[str, list[Figures]]) -> tuple[str, ...]:
    """Whether all ways made the same documents, and how full their batches are."""
    names = ("documents", "tokens", "trained", "digest")
    ours = told["dusk"][0]
    same = all(one[name] == ours[name] for of_way in told.values() for one in of_way for name in names)
    equal = "are the same in all ways" if same else "DIFFER"
    counts = f"{ours['documents']:,} documents, {ours['tokens']:,} tokens, {ours['trained']:,} trained"
    fill = (
        f"{way} {of_way[0]['tokens'] / of_way[0]['batches'] / CONTEXT:.1%}" for way, of_way in told.items()
    )
    return f"Ids and masks {equal} ({counts}).", f"Batches are full to: {', '.join(fill)}."
