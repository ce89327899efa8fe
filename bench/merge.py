"""`dusk merge`, linear and SLERP, of two large models beside a plain copy, and mergekit where it is."""

import json
from dataclasses import replace
from pathlib import Path

from bench.checkpoints import cleared, mergekit_absent, mergekit_command, plain_copies, random_checkpoint
from bench.measure import DUSK, in_turn
from bench.table import Goal, Table, Way, at_least, at_most

NAME = "merge"
_TIMES_MERGEKIT = {"linear": 4.0, "slerp": 8.0}


def bench(work: Path, rounds: int) -> list[Table]:
    """One table a method."""
    models = [random_checkpoint(work, "large", 0), random_checkpoint(work, "large-too", 1)]
    return [_table(method, models, work, rounds) for method in _TIMES_MERGEKIT]


def _table(method: str, models: list[Path], work: Path, rounds: int) -> Table:
    out, source = work / "out", models[0] / "model.safetensors"
    commands = {"dusk merge": [DUSK, "merge", *map(str, models), "--out", str(out), "--method", method]}
    commands["cp, on disk"] = plain_copies(source, out)["cp, on disk"]
    mergekit = mergekit_command(_recipe(method, models, work), out)
    if mergekit:
        commands["mergekit"] = mergekit
    runs = in_turn({name: cleared(out, c, work / "log") for name, c in commands.items()}, rounds)
    ways = [Way.timed(name, commands[name], runs[name]) for name in runs]
    ways += [] if mergekit else [mergekit_absent()]
    written = source.stat().st_size / 1e6
    title = f"Merge two models of {written / 1000:.2f} GB, {method}"
    table = Table(title, "seconds", "cp, on disk", tuple(ways), written)
    return replace(table, goals=_goals(table, method))


def _recipe(method: str, models: list[Path], work: Path) -> Path:
    weight = {"parameters": {"weight": 0.5}} if method == "linear" else {}
    recipe = {
        "merge_method": method,
        "dtype": "bfloat16",
        "models": [{"model": str(model), **weight} for model in models],
        **({"base_model": str(models[0]), "parameters": {"t": 0.5}} if method == "slerp" else {}),
    }
    file = work / f"{method}.yaml"
    file.write_text(json.dumps(recipe))
    return file


def _goals(table: Table, method: str) -> tuple[Goal, ...]:
    times = _TIMES_MERGEKIT[method]
    speed = at_least(
        f"at least {times:g} times as fast as mergekit", table.speed_up("dusk merge", "mergekit"), times
    )
    memory = at_most("at most 512 MiB resident at the peak", table.peak_mib("dusk merge"), 512)
    if method != "linear":
        return (speed, memory)
    copy = table.speed_up("dusk merge", "cp, on disk")
    return (speed, memory, at_least("at least 0.7 of the speed of a copy", copy, 0.7))
