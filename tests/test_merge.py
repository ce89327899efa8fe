"""Linear, SLERP and task arithmetic against the formulas written out in float64."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dusk.checkpoint import read_manifest, verify
from dusk.layers import LayerMap
from dusk.merge import merge
from dusk.merge.slerp import slerp_weights
from dusk.scale import scale
from merge_reference import assert_close, cosine, layer_of, mean64, slerp64, tensors

Models = Callable[..., Path]
Copy = Callable[..., Path]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("weights", [None, [0.4, 0.6], [3, 1]])
def test_linear(model_folder: Models, tmp_path: Path, dtype: str, weights: list[float] | None) -> None:
    a, b = (model_folder("mistral", dtype=dtype, seed=seed) for seed in (1, 2))
    report = merge([a, b], tmp_path / "out", weights=weights)
    models = [tensors(a), tensors(b)]
    found, expected = tensors(tmp_path / "out"), mean64(models, weights or [1, 1])
    assert_close(found, expected, models)
    if dtype != "float32" and weights is None:  # halves are exact in float32: one rounding, torch's own
        assert all(torch.equal(value, expected[name].to(value.dtype)) for name, value in found.items())
    assert report.linear_share is None
    assert sum(report.settings["weights"]) == pytest.approx(1)


def test_three_models_of_three_types(model_folder: Models, tmp_path: Path) -> None:
    folders = [
        model_folder("mistral", dtype=dtype, seed=seed)
        for seed, dtype in enumerate(["float32", "bfloat16", "float16"])
    ]
    report = merge(folders, tmp_path / "out", weights=[0.2, 0.3, 0.5])
    models = [tensors(folder) for folder in folders]
    assert_close(tensors(tmp_path / "out"), mean64(models, [0.2, 0.3, 0.5]), models)
    assert any("other types" in warning for warning in report.warnings)
    assert verify(tmp_path / "out", forward=True).ok


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp(model_folder: Models, copy_of: Copy, tmp_path: Path, t: float) -> None:
    a, b = (copy_of(model_folder("mistral", seed=seed), str(seed)) for seed in (1, 2))
    special = edge_cases(a, b)
    report = merge([a, b], tmp_path / "out", method="slerp", t=t)
    x, y = tensors(a), tensors(b)
    found = tensors(tmp_path / "out")
    assert_close(found, {name: slerp64(x[name], y[name], t) for name in x}, [x, y])
    norms = [name for name in x if "norm" in name]
    linear = [name for name in x if abs(cosine(x[name], y[name])) > 0.9995]
    assert set(special[:2]) <= set(linear)
    assert len(linear) < len(norms)
    assert report.linear_share == len(linear) / len(x)
    if t in (0.0, 1.0):
        source = x if t == 0 else y
        assert all(torch.equal(found[name], source[name]) for name in x)


def edge_cases(a: Path, b: Path) -> list[str]:
    """Makes one tensor parallel, one opposite, and one zero in the second model."""
    x, y = tensors(a), tensors(b)
    names = [f"model.layers.0.mlp.{part}_proj.weight" for part in ("up", "gate", "down")]
    for name, factor in zip(names, (2.0, -1.0, 0.0), strict=True):
        y[name] = x[name] * factor
    save_file(y, b / "model.safetensors", metadata={"format": "pt"})
    return names


def test_slerp_weights_at_the_edges() -> None:
    right_angle = slerp_weights(0.5, 0.0, 3.0, 0.0)
    assert right_angle.first == right_angle.second == pytest.approx(math.sqrt(0.5))
    assert slerp_weights(0.25, -9.0, 3.0, 3.0) == slerp_weights(0.25, 9.0, 3.0, 3.0)
    assert slerp_weights(0.25, 0.9996, 1.0, 1.0).is_linear
    assert not slerp_weights(0.25, 0.9994, 1.0, 1.0).is_linear
    assert slerp_weights(0.25, math.nan, 1.0, 1.0).is_linear


def test_float64_and_sizes_that_are_odd(copy_of: Copy, model_folder: Models, tmp_path: Path) -> None:
    folders = [copy_of(model_folder("llama"), str(i)) for i in range(2)]
    made = []
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        extra = {
            f"odd.{dtype}.{size}".replace("torch.", ""): torch.randn(size).to(dtype)
            for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
            for size in (1, 3, 0, 524_289)
        }
        extra["mask"] = torch.arange(1_200_000) % 2 == 0
        made.append(tensors(folder) | extra)
        save_file(made[-1], folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "unknown"}))
    merge(folders, tmp_path / "out", weights=[0.3, 0.7])
    found = tensors(tmp_path / "out")
    assert torch.equal(found.pop("mask"), made[0].pop("mask"))
    del made[1]["mask"]
    assert_close(found, mean64(made, [0.3, 0.7]), made)


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_pieces_blocks_and_shards_change_nothing(
    model_folder: Models, tmp_path: Path, monkeypatch: Any, method: str
) -> None:
    a, b = (model_folder("llama", seed=seed, dtype="bfloat16") for seed in (1, 2))
    c, d = (model_folder("llama", seed=seed, dtype="bfloat16", shard="20KB") for seed in (1, 2))
    merge([a, b], tmp_path / "whole", method=method)
    modules = sys.modules
    monkeypatch.setattr(modules["dusk.merge.pieces"], "PIECE_ELEMENTS", 128)
    monkeypatch.setattr(modules["dusk.merge.writing"], "_TASK_ELEMENTS", 1000)
    monkeypatch.setattr(modules["dusk.merge.blocks"], "BLOCK_BYTES", 4096)
    monkeypatch.setattr(modules["dusk.merge.run"], "SHARD_LIMIT_BYTES", 40_000)
    merge([c, d], tmp_path / "pieces", method=method)
    shards = sorted((tmp_path / "pieces").glob("*.safetensors"))
    assert len(shards) > 1
    x, y = tensors(tmp_path / "whole"), {k: v for shard in shards for k, v in load_file(shard).items()}
    assert x.keys() == y.keys()
    assert all(torch.equal(x[name], y[name]) for name in x)
    assert verify(tmp_path / "pieces").ok


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_task_arithmetic(model_folder: Models, tmp_path: Path, dtype: str) -> None:
    base, a, b = (model_folder("mistral", dtype=dtype, seed=seed) for seed in (0, 1, 2))
    report = merge([a, b], tmp_path / "out", method="task-arithmetic", weights=[0.3, -0.5], base_model=base)
    x0, x1, x2 = (tensors(folder) for folder in (base, a, b))
    expected = {
        n: x0[n].double() + 0.3 * (x1[n].double() - x0[n].double()) - 0.5 * (x2[n].double() - x0[n].double())
        for n in x0
    }
    assert_close(tensors(tmp_path / "out"), expected, [x0, x1, x2])
    assert report.settings == {"method": "task-arithmetic", "weights": [0.3, -0.5]}
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert [source.path for source in manifest.inputs] == [str(a), str(b), str(base)]


def test_one_task_added_whole_is_the_model(model_folder: Models, tmp_path: Path) -> None:
    base, a = (model_folder("mistral", seed=seed) for seed in (0, 1))
    merge([a], tmp_path / "out", method="task-arithmetic", weights=[1], base_model=base)
    x, y = tensors(a), tensors(tmp_path / "out")
    assert all(torch.equal(x[name], y[name]) for name in x)


def test_t_over_the_depth(model_folder: Models, tmp_path: Path) -> None:
    a, b = (model_folder("llama", seed=seed) for seed in (1, 2))
    report = merge([a, b], tmp_path / "out", method="slerp", t=[0, 0.5, 1])
    x, y = tensors(a), tensors(b)
    places = {name: (layer_of(name) or 0) / 7 for name in x}  # eight layers; 0 outside them
    expected = {name: slerp64(x[name], y[name], places[name]) for name in x}
    assert_close(tensors(tmp_path / "out"), expected, [x, y])
    assert report.settings["t"] == [0, 0.5, 1]


def test_weights_over_the_depth(model_folder: Models, tmp_path: Path) -> None:
    a, b = (model_folder("mistral", seed=seed) for seed in (1, 2))
    merge([a, b], tmp_path / "out", weights=[[1, 0, 3], 1])
    x, y = tensors(a), tensors(b)
    curve = {None: 1, 0: 1, 1: 1 / 3, 2: 1, 3: 3}  # four layers: places 0, 1/3, 2/3, 1
    first = {name: curve[layer_of(name)] for name in x}
    expected = {n: (first[n] * x[n].double() + y[n].double()) / (first[n] + 1) for n in x}
    assert_close(tensors(tmp_path / "out"), expected, [x, y])


def test_the_merge_loads_and_says_what_it_is(model_folder: Models, tmp_path: Path) -> None:
    a, b = (model_folder("qwen2", seed=seed) for seed in (1, 2))
    seen: list[tuple[int, int]] = []
    merge([a, b], tmp_path / "out", method="slerp", t=0.4, progress=lambda *step: seen.append(step))
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.settings == {"method": "slerp", "t": 0.4}
    assert [source.path for source in manifest.inputs] == [str(a), str(b)]
    assert "base_model_relation: merge" in (tmp_path / "out" / "README.md").read_text()
    assert seen[-1][0] == seen[-1][1]


def test_siblings_share_their_ancestors(model_folder: Models, tmp_path: Path) -> None:
    base = model_folder("mistral")
    scale(base, tmp_path / "deep")
    merge([tmp_path / "deep", tmp_path / "deep"], tmp_path / "a")
    merge([tmp_path / "a", tmp_path / "a"], tmp_path / "b")
    manifest = read_manifest(tmp_path / "b")
    assert manifest is not None
    assert [ancestor["command"] for ancestor in manifest.lineage] == ["merge", "scale"]
    assert manifest.layer_map == LayerMap.depthwise(4).to_json()
    assert str(tmp_path) not in (tmp_path / "b" / "README.md").read_text()
