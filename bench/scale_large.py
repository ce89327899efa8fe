"""`dusk scale` of a large checkpoint beside plain copies of as many bytes, and mergekit where it is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from bench.checkpoints import (
    cleared,
    mergekit_absent,
    mergekit_command,
    on_disk,
    plain_copies,
    random_checkpoint,
)
from bench.measure import DUSK, in_turn, measured
from bench.table import Goal, Table, Way, at_least, at_most

NAME = "scale-large"
_DROP = 2


def bench(work: Path, rounds: int) -> list[Table]:
    """Eight layers to twelve."""
    return [compared(random_checkpoint(work, "large", 0), _DROP, work, rounds)]


def compared(base: Path, drop: int, work: Path, rounds: int, warm_up: int = 1) -> Table:
    """The base scaled, its result copied, and mergekit's passthrough where it is."""
    source, out = work / "whole", work / "out"
    measured([DUSK, "scale", str(base), str(source), "--drop", str(drop)], work / "log")
    commands = {"dusk scale": [DUSK, "scale", str(base), str(out), "--drop", str(drop)]}
    commands |= plain_copies(source, out)
    mergekit = mergekit_command(_passthrough(base, drop, work), out)
    if mergekit:
        commands["mergekit"] = mergekit
        commands["mergekit, on disk"] = on_disk(mergekit, out)
    ways = {name: cleared(out, command, work / "log") for name, command in commands.items()}
    runs = in_turn(ways, rounds, warm_up=warm_up)
    told = [Way.timed(name, commands[name], runs[name]) for name in runs]
    told += [] if mergekit else [mergekit_absent()]
    size, written = (sum(f.stat().st_size for f in folder.iterdir()) / 1e6 for folder in (base, source))
    shutil.rmtree(source)
    shutil.rmtree(out, ignore_errors=True)
    title = f"Scale {size / 1000:.2f} GB to {written / 1000:.2f} GB"
    table = Table(title, "seconds", "cp, on disk", tuple(told), written)
    note = "dusk ends when the disk has it, as `on disk` does; cp and mergekit alone end before."
    return replace(table, goals=_goals(table), notes=(note,))


def _passthrough(base: Path, drop: int, work: Path) -> Path:
    layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
    slices = [
        {"sources": [{"model": str(base), "layer_range": span}]}
        for span in ([0, layers - drop], [drop, layers])
    ]
    config = work / "passthrough.yaml"
    config.write_text(json.dumps({"merge_method": "passthrough", "dtype": "bfloat16", "slices": slices}))
    return config


def _goals(table: Table) -> tuple[Goal, ...]:
    return (
        at_most("at most 64 MiB resident at the peak", table.peak_mib("dusk scale"), 64),
        at_least("at least 2 times as fast as mergekit", table.speed_up("dusk scale", "mergekit"), 2),
        at_least(
            "no slower than a copy that ends on the disk", table.speed_up("dusk scale", "cp, on disk"), 1
        ),
    )
