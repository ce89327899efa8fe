"""`dusk scale` of the shipped base in a process of its own, beside the interpreter alone."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.checkpoints import cleared, random_checkpoint
from bench.measure import DUSK, PYTHON, in_turn, measured
from bench.table import Table, Way, at_most

NAME = "scale-base"
_ROOT = Path(__file__).parent.parent
_SHIPPED = _ROOT / "src/dusk/base/constant"


def bench(work: Path, rounds: int) -> list[Table]:
    """Of 8 layers 12, as the demo does."""
    base = _SHIPPED
    if not base.exists():
        config = json.loads((_ROOT / "recipes/base/config.json").read_text())
        base = random_checkpoint(work, "base", 0, config)
    out = work / "scaled"
    command = [DUSK, "scale", str(base), str(out), "--drop", "2"]
    nothing = [PYTHON, "-c", "pass"]
    runs = in_turn(
        {
            "dusk scale": cleared(out, command, work / "log"),
            "python": partial(measured, nothing, work / "log"),
        },
        rounds + 3,
    )
    ways = (
        Way.timed("dusk scale", command, runs["dusk scale"]),
        Way.timed("python", nothing, runs["python"]),
    )
    table = Table("Scale the demo's base, 8 layers to 12", "seconds", "python", ways)
    return [replace(table, goals=(at_most("under 1 s", table.middle("dusk scale"), 1.0),))]
