"""Start-up: the help of dusk beside a bare interpreter."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.measure import DUSK, PYTHON, in_turn, measured
from bench.table import Table, Way, at_most

NAME = "start-up"


def bench(work: Path, rounds: int) -> list[Table]:
    """Twice the rounds and five more, for what takes a moment."""
    commands = {"dusk --help": [DUSK, "--help"], "python": [PYTHON, "-c", "pass"]}
    ways = {name: partial(measured, command, work / "log") for name, command in commands.items()}
    runs = in_turn(ways, 2 * rounds + 5)
    table = Table("Start-up", "seconds", "python", tuple(Way.timed(n, commands[n], runs[n]) for n in runs))
    return [replace(table, goals=(at_most("under 0.3 s", table.middle("dusk --help"), 0.3),))]
