"""Decontamination of instruction rows against the six H6 sets, beside Janitor and datatrove's filter.

At a million rows beside Janitor; datatrove's filter, which takes ten times as long, at fewer rows beside both.
datatrove 0.10 runs in a Python of its own, `DATATROVE_PYTHON`: its hashes do not take xxhash 4.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

from bench.measure import PYTHON, Run, in_turn, measured
from bench.table import Goal, Table, Way, at_least, paired_ratio

NAME = "data"
_ROWS = {1_000_000: ("dusk", "janitor"), 20_000: ("dusk", "janitor", "datatrove")}
_PEER = "DATATROVE_PYTHON"
_SOURCES = Path(__file__).parent.parent / "src"  # that Python has no dusk of its own
_NOTE = "Runs of 13 words; each process of a peer takes every other 1,000 lines. Peaks are of one process."


def bench(work: Path, rounds: int) -> Iterator[Table]:
    """A table for each number of rows."""
    for count, ways in _ROWS.items():
        yield _table(work / f"{count}", rounds, count, ways)


def _table(work: Path, rounds: int, count: int, names: tuple[str, ...]) -> Table:
    """Each way in two processes of its own, reading and writing included; processor time of all of them."""
    title = f"Decontamination of {count:,} instruction rows, two processes"
    if not os.environ.get("DUSK_TEST_DATA"):
        why = "DUSK_TEST_DATA names no folder of the data sets"
        return Table(title, "CPU s", "dusk", tuple(Way(way, "", missing=why) for way in names))
    work.mkdir()
    rows = work / "rows.jsonl"
    measured(
        [PYTHON, "-m", "bench.data_ways", "prepare", str(rows), "-", "--count", str(count)], work / "log"
    )
    pythons = {way: os.environ.get(_PEER) if way == "datatrove" else PYTHON for way in names}
    commands = {
        way: [
            "env",
            f"PYTHONPATH={_SOURCES}",
            python,
            "-m",
            "bench.data_ways",
            way,
            str(rows),
            str(work / way),
        ]
        for way, python in pythons.items()
        if python
    }
    runs = in_turn({way: _child(commands[way], work / way) for way in commands}, rounds, warm_up=0)
    ways = [_way(way, commands[way], runs[way]) for way in commands]
    if "datatrove" in names and "datatrove" not in commands:
        ways.append(Way("datatrove", "", missing=f"{_PEER} names no Python with datatrove and spaCy"))
    goals = (_goal({way.name: way.values for way in ways}),) if count == max(_ROWS) else ()
    return Table(title, "CPU s", "dusk", tuple(ways), goals=goals, notes=_notes(work, runs, count))


def _child(command: list[str], out: Path) -> Callable[[], Run]:
    def run() -> Run:
        shutil.rmtree(out, ignore_errors=True)
        return measured(command, out.with_name("log"))

    return run


def _way(name: str, command: list[str], runs: list[Run]) -> Way:
    values = tuple(run.processor_seconds for run in runs)
    return Way(name, shlex.join(command), values, max(run.peak_bytes for run in runs))


def _goal(values: Mapping[str, tuple[float, ...]]) -> Goal:
    return at_least(
        "at least 5 times as fast as Janitor, the faster of the peers",
        paired_ratio(values["janitor"], values["dusk"]),
        5.0,
    )


def _notes(work: Path, runs: Mapping[str, list[Run]], count: int) -> tuple[str, ...]:
    kept = {way: json.loads((work / f"{way}.kept.json").read_text())["kept"] for way in runs}
    wall = (f"{way} {median(run.seconds for run in of_way):.1f} s" for way, of_way in runs.items())
    speeds = (
        f"{way} {count / median(run.processor_seconds for run in of_way):,.0f}"
        for way, of_way in runs.items()
    )
    counts = (f"{way} {number:,}" for way, number in kept.items())
    return (
        f"Rows a CPU second: {', '.join(speeds)}. By the clock: {', '.join(wall)}.",
        f"Rows kept: {', '.join(counts)}.",
        _NOTE,
    )
