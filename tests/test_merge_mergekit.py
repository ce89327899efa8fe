"""Merges beside mergekit's, where `DUSK_BENCH_MERGEKIT` names the bin folder of its environment.

Both are compared with the formula in float64. In float32 models no value of dusk's may be further from it
than mergekit's. In 16-bit models both sum in float32, so that a value beside the middle of two stored ones may
round to either in either: few values, and no further than the other neighbour. Apart from where terms cancel
the two differ by one unit in the last place at most (two in float32, where mergekit rounds more than once).
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
from test_merge import Tensors, mean64, slerp64, tensors

FOLDER = os.environ.get("DUSK_BENCH_MERGEKIT")
pytestmark = pytest.mark.skipif(not FOLDER, reason="DUSK_BENCH_MERGEKIT names no folder with mergekit")

Models = Callable[..., Path]
SHARE_AT_TIES = 1e-4
SIZES = {"vocab_size": 2000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3}


def mergekit(recipe: dict[str, Any], folder: Path) -> Tensors:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    program = Path(str(FOLDER)) / "mergekit-yaml"
    command = [str(program), str(folder / "recipe.yaml"), str(folder / "out"), "--no-copy-tokenizer"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    found: Tensors = {}
    for file in (folder / "out").glob("*.safetensors"):
        found |= load_file(file)
    return found


def as_recipe(method: str, models: list[Path], dtype: str, settings: dict[str, Any]) -> dict[str, Any]:
    recipe: dict[str, Any] = {"merge_method": method, "dtype": dtype}
    if method == "linear":
        weights = settings["weights"]
        return recipe | {
            "models": [
                {"model": str(m), "parameters": {"weight": w}} for m, w in zip(models, weights, strict=True)
            ]
        }
    layers = SIZES["num_hidden_layers"]
    sources = [{"model": str(model), "layer_range": [0, layers]} for model in models]
    parameters = {"t": settings["t"]}
    return recipe | {
        "base_model": str(models[0]),
        "parameters": parameters,
        "slices": [{"sources": sources}],
    }


def in_places(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """How many stored values lie between the two, which have one sign."""
    kind = torch.int16 if ours.element_size() == 2 else torch.int32
    return (ours.view(kind).long() - theirs.view(kind).long()).abs()


def expected(models: list[Tensors], settings: dict[str, Any]) -> Tensors:
    if "weights" in settings:
        return mean64(models, settings["weights"])
    last = SIZES["num_hidden_layers"] - 1
    first, second = models
    found = {}
    for name in first:
        place = int(name.split(".")[2]) / last if "layers" in name else 0.0
        t = settings["t"] if isinstance(settings["t"], float) else place  # the list is [0, 1]
        found[name] = slerp64(first[name], second[name], t)
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("linear", {"weights": [0.4, 0.6]}),
        ("linear", {"weights": [0.5, 0.5]}),
        ("slerp", {"t": 0.3}),
        ("slerp", {"t": [0.0, 1.0]}),
    ],
)
def test_beside_mergekit(
    model_folder: Models, tmp_path: Path, dtype: str, method: str, settings: dict[str, Any]
) -> None:
    folders = [model_folder("llama", dtype=dtype, seed=seed, **SIZES) for seed in (1, 2)]
    theirs = mergekit(as_recipe(method, folders, dtype, settings), tmp_path / "mergekit")
    merge(folders, tmp_path / "out", method=method, **settings)
    ours, models = tensors(tmp_path / "out"), [tensors(folder) for folder in folders]
    reference = expected(models, settings)
    assert ours.keys() == theirs.keys()
    further = values = unlike = 0
    for name, value in ours.items():
        here, there = ((m.double() - reference[name]).abs() for m in (value, theirs[name]))
        further += int((here > there).sum())
        values += value.numel()
        terms = sum(model[name].double().abs() for model in models)
        plain = reference[name].abs() > terms / 4  # elsewhere they cancel
        unlike += int((in_places(value, theirs[name])[plain] > (2 if dtype == "float32" else 1)).sum())
    print(f"{method} {settings} {dtype}: {further} of {values} further, {unlike} unlike")
    assert unlike == 0
    assert further <= (0 if dtype == "float32" else values * SHARE_AT_TIES)
