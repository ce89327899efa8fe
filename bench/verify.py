"""`dusk verify` of a model with digests beside reading its bytes, and sha256sum.

DUSK_BENCH_LAYERS chooses the size: 8 layers are 0.77 GB. What fits into memory is read from the page cache.
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.checkpoints import LARGE, random_checkpoint
from bench.measure import DUSK, in_turn, measured
from bench.table import Table, Way, at_least

NAME = "verify"
LAYERS_VARIABLE = "DUSK_BENCH_LAYERS"


def bench(work: Path, rounds: int) -> list[Table]:
    """Every way reads every byte of the weights."""
    layers = int(os.environ.get(LAYERS_VARIABLE, "8"))
    model = random_checkpoint(work, f"verified-{layers}", 0, LARGE | {"num_hidden_layers": layers})
    measured([DUSK, "verify", str(model), "--write"], work / "log")
    commands = {
        "dusk verify": [DUSK, "verify", str(model)],
        "read": ["sh", "-c", f"cat {model}/*.safetensors > /dev/null"],
        "sha256sum": ["sh", "-c", f"sha256sum {model}/*.safetensors"],
    }
    ways = {name: partial(measured, command, work / "log") for name, command in commands.items()}
    runs = in_turn(ways, rounds)
    told = tuple(Way.timed(name, commands[name], runs[name]) for name in runs)
    size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e6
    table = Table(f"Verify {size / 1000:.2f} GB against its digests", "seconds", "read", told, size)
    goal = at_least("at least 0.7 of the speed of reading", table.speed_up("dusk verify", "read"), 0.7)
    return [replace(table, goals=(goal,))]
