"""Merges against the formulas written out in float64, and models that do not belong together."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dusk.checkpoint import read_manifest, verify
from dusk.errors import CheckpointError, OutputError, SettingError
from dusk.layers import LayerMap
from dusk.merge import merge
from dusk.merge.floats import decode, encode
from dusk.merge.slerp import slerp_weights
from dusk.scale import scale

Models = Callable[..., Path]
Copy = Callable[..., Path]
Tensors = dict[str, torch.Tensor]


def tensors(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def mean64(models: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
    return {
        name: sum(w * m[name].double() for w, m in zip(weights, models, strict=True)) / sum(weights)
        for name in models[0]
    }


def slerp64(x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    """mergekit's behaviour in float64: lerp where |cos| > 0.9995, eps 1e-8 for lengths."""
    a, b = x.double().numpy(), y.double().numpy()
    unit_a = a / np.linalg.norm(a) if np.linalg.norm(a) > 1e-8 else a
    unit_b = b / np.linalg.norm(b) if np.linalg.norm(b) > 1e-8 else b
    cosine = float((unit_a * unit_b).sum())
    if abs(cosine) > 0.9995:
        return torch.from_numpy((1 - t) * a + t * b)
    theta = math.acos(cosine)
    return torch.from_numpy(
        math.sin((1 - t) * theta) / math.sin(theta) * a + math.sin(t * theta) / math.sin(theta) * b
    )


def assert_close(found: Tensors, expected: Tensors, models: Sequence[Tensors]) -> None:
    """Half a unit in the last place of the stored type, and float32's rounding of the terms.

    The terms and not the sum, because float32 can do no better where they cancel.
    """
    assert found.keys() == expected.keys()
    for name, value in found.items():
        terms = sum(model[name].double().abs() for model in models)
        allowed = expected[name].abs() * torch.finfo(value.dtype).eps / 2 + 2 * terms * 2**-24
        assert ((value.double() - expected[name]).abs() <= allowed).all(), name


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
    assert sum(report.weights or ()) == pytest.approx(1)


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


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.double() * y.double()).sum() / (x.double().norm() * y.double().norm()).clamp_min(1e-300))


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


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    ours = decode(encode(array, "BF16"), "BF16")
    theirs = torch.from_numpy(array.copy()).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(ours, theirs)


def test_every_bfloat16_survives_the_round_trip() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    values = decode(every, "BF16")
    number = ~np.isnan(values)
    np.testing.assert_array_equal(encode(values, "BF16")[number], every[number])
    assert np.isnan(decode(encode(values, "BF16"), "BF16")[~number]).all()


def test_pieces_and_shards_change_nothing(model_folder: Models, tmp_path: Path, monkeypatch: Any) -> None:
    a, b = (model_folder("llama", seed=seed) for seed in (1, 2))
    c, d = (model_folder("llama", seed=seed, shard="40KB") for seed in (1, 2))
    merge([a, b], tmp_path / "whole", method="slerp")
    monkeypatch.setattr(sys.modules["dusk.merge.tensors"], "PIECE_ELEMENTS", 100)
    merge([c, d], tmp_path / "pieces", method="slerp")
    x, y = tensors(tmp_path / "whole"), tensors(tmp_path / "pieces")
    assert all(torch.allclose(x[name], y[name], rtol=1e-6, atol=0) for name in x)
    assert len(x) == len(y)


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


def test_different_shapes_are_all_listed(model_folder: Models, tmp_path: Path) -> None:
    a, b = model_folder("llama"), model_folder("llama", num_hidden_layers=7, vocab_size=104)
    with pytest.raises(CheckpointError, match="different models") as caught:
        merge([a, b], tmp_path / "out")
    problems = " ".join(caught.value.problems)
    assert len(caught.value.problems) == 11  # nine tensors of a layer, embedding, head
    assert "lm_head.weight has shape (96, 32)" in problems
    assert "model.layers.7.mlp.up_proj.weight is only in" in problems
    assert not list(tmp_path.iterdir())


def test_different_meaning_is_refused_although_shapes_agree(model_folder: Models, tmp_path: Path) -> None:
    a, b = (
        model_folder("llama"),
        model_folder("llama", num_attention_heads=8, num_key_value_heads=4, head_dim=4),
    )
    with pytest.raises(CheckpointError) as caught:
        merge([a, b], tmp_path / "out")
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ]


def tokenizer(tokens: Sequence[str], **more: Any) -> str:
    vocab = {token: index for index, token in enumerate(tokens)}
    return json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": [], **more})


def test_tokenizers_are_compared_first(model_folder: Models, copy_of: Copy, tmp_path: Path) -> None:
    a, b = copy_of(model_folder("llama"), "a"), copy_of(model_folder("llama"), "b")
    merge([a, b], tmp_path / "untold")
    (a / "tokenizer.json").write_text(tokenizer(["<s>", "a", "b"]))
    report = merge([a, b], tmp_path / "one")
    assert "no tokenizer" in report.warnings[0]
    (b / "tokenizer.json").write_text(tokenizer(["<s>", "b", "a"]))
    with pytest.raises(CheckpointError, match="different tokenizers") as caught:
        merge([a, b], tmp_path / "out")
    assert caught.value.problems == [
        "'a' is 1 in the first, 2 in the other",
        "'b' is 2 in the first, 1 in the other",
    ]
    (b / "tokenizer.json").write_text(tokenizer(["<s>", "a", "b"], truncation=None))
    (a / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (b / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    assert "eos_token '<end>'" in merge([a, b], tmp_path / "same").warnings[0]
    assert (tmp_path / "same" / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (1, {}, "at least two"),
        (2, {"method": "ties"}, "no merge method"),
        (2, {"weights": [1]}, "1 weights for 2"),
        (2, {"weights": [1, -1]}, "have no mean"),
        (2, {"weights": [1, math.nan]}, "have no mean"),
        (2, {"t": 0.1}, "belongs to slerp"),
        (2, {"method": "slerp", "weights": [0.5, 0.5]}, "linear merge"),
        (2, {"method": "slerp", "t": 1.5}, "from 0"),
        (3, {"method": "slerp"}, "between two"),
    ],
)
def test_bad_settings(
    model_folder: Models, tmp_path: Path, count: int, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        merge([model_folder("llama")] * count, tmp_path / "out", **settings)


def test_values_that_are_not_finite_are_told(model_folder: Models, copy_of: Copy, tmp_path: Path) -> None:
    a = copy_of(model_folder("llama"))
    broken = tensors(a)
    broken["lm_head.weight"][0, 0] = math.inf
    save_file(broken, a / "model.safetensors", metadata={"format": "pt"})
    report = merge([a, model_folder("llama")], tmp_path / "out")
    assert "lm_head.weight" in report.warnings[-1]


def test_a_disk_that_fills_up(model_folder: Models, tmp_path: Path, file_size_limit: Any) -> None:
    with file_size_limit(100_000), pytest.raises(OutputError, match="could not be written: File too large"):
        merge([model_folder("llama")] * 2, tmp_path / "out")
    assert not list(tmp_path.iterdir())
