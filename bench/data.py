"""Decontamination of 100,000 instruction rows against the six H6 sets, beside Janitor and datatrove's filter.

datatrove 0.10 runs in a Python of its own, `DATATROVE_PYTHON`: its hashes do not take xxhash 4.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from bench.measure import PYTHON, Run, in_turn, measured
from bench.table import Goal, Table, Way, at_least

NAME = "data"
_ROWS = 100_000
_PEER = "DATATROVE_PYTHON"
_PEERS = ("janitor", "datatrove")
_TITLE = f"Decontamination of {_ROWS:,} instruction rows, two processes"
_NOTE = "Runs of 13 words; each process of a peer takes every other 1,000 lines. Peaks are of one process."


def bench(work: Path, rounds: int) -> list[Table]:
    """Each way in two processes of its own, reading and writing included; processor time of all of them."""
    if not os.environ.get("DUSK_TEST_DATA"):
        why = "DUSK_TEST_DATA names no folder of the data sets"
        return [Table(_TITLE, "CPU s", "dusk", tuple(Way(way, "", missing=why) for way in ("dusk", *_PEERS)))]
    rows = work / "rows.jsonl"
    measured(
        [PYTHON, "-m", "bench.data_ways", "prepare", str(rows), "-", "--count", str(_ROWS)], work / "log"
    )
    pythons = {"dusk": PYTHON, "janitor": PYTHON, "datatrove": os.environ.get(_PEER)}
    commands = {
        way: [python, "-m", "bench.data_ways", way, str(rows), str(work / way)]
        for way, python in pythons.items()
        if python
    }
    ways = {way: _child(command, work / way) for way, command in commands.items()}
    runs = in_turn(ways, rounds, warm_up=0)
    measured_ways = [_way(way, commands[way], runs[way]) for way in commands]
    if "datatrove" not in commands:
        measured_ways.append(
            Way("datatrove", "", missing=f"{_PEER} names no Python with datatrove and spaCy")
        )
    return [
        Table(
            _TITLE,
            "CPU s",
            "dusk",
            tuple(measured_ways),
            goals=(_goal({way.name: way.values for way in measured_ways if way.values}),),
            notes=_notes(work, runs),
        )
    ]


def _child(command: list[str], out: Path) -> Callable[[], Run]:
    def run() -> Run:
        shutil.rmtree(out, ignore_errors=True)
        return measured(command, out.with_name("log"))

    return run


def _way(name: str, command: list[str], runs: list[Run]) -> Way:
    values = tuple(run.processor_seconds for run in runs)
    return Way(name, shlex.join(command), values, max(run.peak_bytes for run in runs))


def _goal(values: Mapping[str, tuple[float, ...]]) -> Goal:
    faster = min((way for way in _PEERS if way in values), key=lambda way: median(values[way]))
    ratios = [theirs / ours for theirs, ours in zip(values[faster], values["dusk"], strict=True)]
    return at_least(f"at least 5 times as fast as {faster}, the faster of the peers", median(ratios), 5.0)


def _notes(work: Path, runs: Mapping[str, list[Run]]) -> tuple[str, ...]:
    kept = {way: json.loads((work / f"{way}.json").read_text())["kept"] for way in runs}
    wall = (f"{way} {median(run.seconds for run in of_way):.1f} s" for way, of_way in runs.items())
    counts = (f"{way} {count:,}" for way, count in kept.items())
    return f"By the clock: {', '.join(wall)}.", f"Rows kept: {', '.join(counts)}.", _NOTE
