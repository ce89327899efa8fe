"""`dusk scale` of a large checkpoint beside plain copies of as many bytes, and mergekit where it is."""

import json
from dataclasses import replace
from pathlib import Path

from bench.checkpoints import (
    LARGE,
    cleared,
    mergekit_absent,
    mergekit_command,
    plain_copies,
    random_checkpoint,
)
from bench.measure import DUSK, in_turn, measured
from bench.table import Goal, Table, Way, at_least, at_most

NAME = "scale-large"
_DROP = 2


def bench(work: Path, rounds: int) -> list[Table]:
    """Eight layers to twelve; the copies are of the result's bytes."""
    base, model = random_checkpoint(work, "large", 0), work / "whole"
    measured([DUSK, "scale", str(base), str(model), "--drop", str(_DROP)], work / "log")
    source, out = model / "model.safetensors", work / "out"
    commands = {"dusk scale": [DUSK, "scale", str(base), str(out), "--drop", str(_DROP)]}
    commands |= plain_copies(source, out)
    mergekit = mergekit_command(_passthrough(base, work), out)
    if mergekit:
        commands["mergekit"] = mergekit
    runs = in_turn({name: cleared(out, c, work / "log") for name, c in commands.items()}, rounds)
    ways = [Way.timed(name, commands[name], runs[name]) for name in runs]
    ways += [] if mergekit else [mergekit_absent()]
    size, written = (file.stat().st_size / 1e6 for file in (base / "model.safetensors", source))
    title = f"Scale {size / 1000:.2f} GB to {written / 1000:.2f} GB"
    table = Table(title, "seconds", "cp, on disk", tuple(ways), written)
    return [replace(table, goals=_goals(table), notes=("dusk and `cp, on disk` end when the disk has it.",))]


def _passthrough(base: Path, work: Path) -> Path:
    layers = LARGE["num_hidden_layers"]
    assert isinstance(layers, int)
    slices = [
        {"sources": [{"model": str(base), "layer_range": span}]}
        for span in ([0, layers - _DROP], [_DROP, layers])
    ]
    config = work / "passthrough.yaml"
    config.write_text(json.dumps({"merge_method": "passthrough", "dtype": "bfloat16", "slices": slices}))
    return config


def _goals(table: Table) -> tuple[Goal, ...]:
    return (
        at_most("at most 64 MiB resident at the peak", table.peak_mib("dusk scale"), 64),
        at_least("at least 2 times as fast as mergekit", table.speed_up("dusk scale", "mergekit"), 2),
    )
