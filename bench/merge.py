"""`dusk merge` beside plain copies, and mergekit where it is: two of 1.1B, and two as large as asked for."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.checkpoints import (
    LARGE,
    clear,
    cleared,
    mergekit_absent,
    mergekit_command,
    plain_copies,
    random_checkpoint,
)
from bench.measure import DUSK, in_turn
from bench.table import Goal, Table, Way, at_least, at_most

NAME = "merge"
LAYERS_VARIABLE = "DUSK_BENCH_MERGE_LAYERS"
_SMALL = {**LARGE, "num_hidden_layers": 22, "vocab_size": 32000}  # TinyLlama's shape: 2.2 GB
_MISTRAL = {
    **LARGE,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
_MISTRAL_LAYERS = 8  # 4 GB; SOLAR 10.7B has 48
_TIMES_MERGEKIT = {"linear": 4.0, "slerp": 8.0}
_BOTH = "read both, write one"


def bench(work: Path, rounds: int) -> Iterator[Table]:
    """One table a method at 1.1B; then the linear merge of two larger models, without mergekit."""
    models = [random_checkpoint(work, f"small-{seed}", seed, _SMALL) for seed in range(2)]
    for method in _TIMES_MERGEKIT:
        yield _table(method, models, work, rounds, beside_mergekit=True)
    for model in models:
        shutil.rmtree(model)
    config = {**_MISTRAL, "num_hidden_layers": int(os.environ.get(LAYERS_VARIABLE, _MISTRAL_LAYERS))}
    models = [random_checkpoint(work, f"large-{seed}", seed, config) for seed in range(2)]
    yield _table("linear", models, work, rounds, beside_mergekit=False)
    for model in models:
        shutil.rmtree(model)


def _table(method: str, models: list[Path], work: Path, rounds: int, *, beside_mergekit: bool) -> Table:
    out, sources = work / "out", [model / "model.safetensors" for model in models]
    commands = {"dusk merge": [DUSK, "merge", *map(str, models), "--out", str(out), "--method", method]}
    commands["cp, on disk"] = plain_copies(sources[1], out)["cp, on disk"]
    copied = commands["cp, on disk"][-1]
    commands[_BOTH] = ["sh", "-c", f"cat {sources[0]} > {os.devnull} && {copied}"]
    mergekit = mergekit_command(_recipe(method, models, work), out) if beside_mergekit else None
    if mergekit:  # with as many threads as it likes
        commands["mergekit"] = ["env", "-u", "OMP_NUM_THREADS", *mergekit]
    _read_once(sources)
    runs = in_turn({name: cleared(out, c, work / "log") for name, c in commands.items()}, rounds)
    clear(out)
    ways = [Way.timed(name, commands[name], runs[name]) for name in runs]
    ways += [mergekit_absent()] if beside_mergekit and not mergekit else []
    written = sources[0].stat().st_size / 1e6
    title = f"Merge two models of {written / 1000:.2f} GB, {method}"
    table = Table(title, "seconds", "cp, on disk", tuple(ways), written)
    notes = (f"`{_BOTH}` moves as many bytes as a merge does.",)
    return replace(table, goals=_goals(table, method, beside_mergekit), notes=notes)


def _read_once(files: Iterable[Path]) -> None:
    """Into the page cache, as far as it goes."""
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass


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


def _goals(table: Table, method: str, beside_mergekit: bool) -> tuple[Goal, ...]:
    memory = at_most("at most 512 MiB resident at the peak", table.peak_mib("dusk merge"), 512)
    if not beside_mergekit:
        copy = table.speed_up("dusk merge", "cp, on disk")
        return (memory, at_least("at least 0.7 of the speed of a copy", copy, 0.7))
    times = _TIMES_MERGEKIT[method]
    speed = table.speed_up("dusk merge", "mergekit")
    return (at_least(f"at least {times:g} times as fast as mergekit", speed, times), memory)
