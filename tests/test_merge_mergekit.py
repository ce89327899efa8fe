"""Merges beside mergekit's, where `DUSK_BENCH_MERGEKIT` names the bin folder of its environment.

Both are compared with the formula in float64. No value of dusk's may be further from it than mergekit's. The
two differ by one unit in the last place at most, and by float32's rounding of the terms, which mergekit's sums
have. But not where the differences from a base count, which mergekit rounds to bfloat16 if that is the type, nor
in model stock, whose angles it sums in float32. DARE is not here: mergekit draws and enlarges otherwise.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dusk.merge import merge
from merge_reference import Tensors, beyond, mean64, sizes_of_terms, slerp64, tensors
from test_merge_methods import stock64, ties64

FOLDER = os.environ.get("DUSK_BENCH_MERGEKIT")
pytestmark = pytest.mark.skipif(not FOLDER, reason="DUSK_BENCH_MERGEKIT names no folder with mergekit")

Models = Callable[..., Path]
Settings = dict[str, Any]
SIZES = {"vocab_size": 1000, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
CASES: list[tuple[str, Settings, str]] = [
    *[("linear", {"weights": [0.4, 0.6]}, dtype) for dtype in ("bfloat16", "float16", "float32")],
    *[("slerp", {"t": [0.0, 1.0]}, dtype) for dtype in ("bfloat16", "float16", "float32")],
    ("linear", {"weights": [0.5, 0.5]}, "bfloat16"),
    ("linear", {"weights": [1.0, 1.0, 1.0]}, "bfloat16"),
    ("slerp", {"t": 0.3}, "bfloat16"),
    ("task-arithmetic", {"weights": [0.3, -0.5]}, "bfloat16"),
    *[("ties", {"weights": [0.7, 0.5], "density": 0.3}, dtype) for dtype in ("float32", "bfloat16")],
    *[("model-stock", {}, dtype) for dtype in ("float32", "bfloat16")],
]
WITH_BASE = {"task-arithmetic", "ties", "model-stock"}
ALL_IN_ONE_PROCESS = """
import sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

for file in sys.argv[1:]:
    recipe = MergeConfiguration.model_validate(yaml.safe_load(open(file)))
    run_merge(recipe, file + ".out", options=MergeOptions(copy_tokenizer=False, quiet=True))
"""


def folders_of(model_folder: Models, method: str, settings: Settings, dtype: str) -> list[Path]:
    """Two models or more; where a base is needed, it comes last."""
    count = max(2, len(settings.get("weights", ()))) + (method in WITH_BASE)
    return [model_folder("llama", dtype=dtype, seed=seed, **SIZES) for seed in range(1, count + 1)]


def as_recipe(method: str, folders: list[Path], dtype: str, settings: Settings) -> dict[str, Any]:
    shared = {key: value for key, value in settings.items() if key == "density"}
    parameters = [{"weight": weight} | shared for weight in settings.get("weights", ())] or [{}] * 2
    models = [
        {"model": str(folder), "parameters": own} if own else {"model": str(folder)}
        for folder, own in zip(folders, parameters, strict=False)
    ]
    recipe: dict[str, Any] = {"merge_method": method.replace("-", "_"), "dtype": dtype}
    if method == "linear":
        return recipe | {"models": models}
    if method in WITH_BASE:
        return recipe | {"models": models, "base_model": str(folders[-1])}
    layers = {"layer_range": [0, SIZES["num_hidden_layers"]]}
    return recipe | {
        "base_model": str(folders[0]),
        "parameters": {"t": settings["t"]},
        "slices": [{"sources": [model | layers for model in models]}],
    }


@pytest.fixture(scope="module")
def theirs(model_folder: Models, tmp_path_factory: pytest.TempPathFactory) -> list[Tensors]:
    """What mergekit makes of each case, all in one process."""
    files = []
    for method, settings, dtype in CASES:
        files.append(tmp_path_factory.mktemp("mergekit") / "recipe.yaml")
        recipe = as_recipe(method, folders_of(model_folder, method, settings, dtype), dtype, settings)
        files[-1].write_text(json.dumps(recipe))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(Path(str(FOLDER)) / "python"), "-c", ALL_IN_ONE_PROCESS, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [load_file(next(Path(f"{file}.out").glob("*.safetensors"))) for file in files]


def unlike(ours: torch.Tensor, theirs: torch.Tensor, terms: torch.Tensor) -> int:
    """How many values differ by more than one unit in the last place and float32's rounding of the terms."""
    larger = torch.maximum(ours.double().abs(), theirs.double().abs())
    unit = torch.exp2(torch.floor(torch.log2(larger.clamp_min(1e-30)))) * torch.finfo(ours.dtype).eps
    return int(((ours.double() - theirs.double()).abs() > unit + 4 * 2.0**-24 * terms).sum())


def expected(models: list[Tensors], method: str, settings: Settings) -> Tensors:
    if method == "linear":
        return mean64(models, settings["weights"])
    if method == "ties":
        return ties64(models[:-1], models[-1], settings["weights"], settings["density"])
    if method == "model-stock":
        return stock64(models[:-1], models[-1])
    if method == "task-arithmetic":
        *tuned, base = [{name: value.double() for name, value in model.items()} for model in models]
        pairs = list(zip(settings["weights"], tuned, strict=True))
        return {name: x + sum(w * (model[name] - x) for w, model in pairs) for name, x in base.items()}
    last = SIZES["num_hidden_layers"] - 1
    first, second = models
    found = {}
    for name in first:
        place = int(name.split(".")[2]) / last if "layers" in name else 0.0
        t = settings["t"] if isinstance(settings["t"], float) else place  # the list is [0, 1]
        found[name] = slerp64(first[name], second[name], t)
    return found


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: "-".join(map(str, CASES[number])))
def test_never_further_than_mergekit(
    model_folder: Models, tmp_path: Path, theirs: list[Tensors], number: int
) -> None:
    method, settings, dtype = CASES[number]
    folders = folders_of(model_folder, method, settings, dtype)
    if method in WITH_BASE:
        merge(folders[:-1], tmp_path / "out", method=method, base_model=folders[-1], **settings)
    else:
        merge(folders, tmp_path / "out", method=method, **settings)
    ours, models = tensors(tmp_path / "out"), [tensors(folder) for folder in folders]
    reference = expected(models, method, settings)
    assert ours.keys() == theirs[number].keys()
    values = further = nearer = far = 0
    for name, value in ours.items():
        other, terms = theirs[number][name], sizes_of_terms(models, name)
        values += value.numel()
        further += int(beyond(value, other, reference[name], terms).sum())
        nearer += int(beyond(other, value, reference[name], terms).sum())
        far += unlike(value, other, terms)
    print(f"{method} {settings} {dtype}: of {values} values {further} further, {nearer} nearer, {far} unlike")
    assert further == 0
    assert far == 0 or (method in WITH_BASE and dtype == "bfloat16") or method == "model-stock"
    assert values > 100_000
