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
from dusk.merge import floats, merge
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


def nearest(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 in one rounding to nearest even; torch rounds to float32 on the way.

    Rounded to odd there (inexact: the neighbour whose last bit is set), the second rounding is the only one.
    Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums", section 2.
    """
    if dtype in {torch.float32, torch.float64}:
        return exact.to(dtype)
    near = exact.float()
    inexact, past = near.double() != exact, near.double().abs() > exact.abs()
    bits = near.view(torch.int32) - (inexact & past).int() | inexact.int()
    return bits.view(torch.float32).to(dtype)


def beyond(found: torch.Tensor, best: torch.Tensor, exact: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    """Where `found` is further from the exact value than `best`, by more than float64's own rounding."""
    own = 4 * 2.0**-53 * terms
    return (found.double() - exact).abs() > (best.double() - exact).abs() + own


def sizes_of_terms(models: Sequence[Tensors], name: str) -> torch.Tensor:
    return sum((model[name].double().abs() for model in models), torch.tensor(0.0))


def assert_close(found: Tensors, expected: Tensors, models: Sequence[Tensors]) -> None:
    """Every value is the nearest that its type has."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        best, terms = nearest(expected[name], value.dtype), sizes_of_terms(models, name)
        assert not beyond(value, best, expected[name], terms).any(), name


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


def stored(values: np.ndarray, dtype: str = "BF16") -> np.ndarray:
    out = np.empty(values.shape, floats.STORED[dtype])
    with np.errstate(invalid="ignore"):  # NaNs that signal
        floats.encode(values.astype(np.float64), dtype, out)
    return out


def numbers(bits: np.ndarray) -> np.ndarray:
    out = np.empty(bits.shape, np.float32)
    floats.decode(bits, "BF16", out)
    return out


def same_numbers(ours: np.ndarray, theirs: torch.Tensor) -> None:
    np.testing.assert_array_equal(numbers(ours), theirs.to(torch.bfloat16).float().numpy())


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    same_numbers(stored(array), torch.from_numpy(array.copy()))


@given(st.integers(0, 2**16 - 1), st.integers(-3, 3))
def test_float64_becomes_bfloat16_in_one_rounding(bits: int, steps: int) -> None:
    low, high = (float(numbers(np.array([b], np.uint16))[0]) for b in (bits, bits + 1 & 0xFFFF))
    if not (math.isfinite(low) and math.isfinite(high)) or (low < 0) != (high < 0):
        return
    middle = low / 2 + high / 2  # exact in float64; float32 would round a value beside it onto it
    value = middle + steps * np.spacing(middle) * (middle != 0)
    nearer = {0: low if bits % 2 == 0 else high}.get(int(np.sign(value - middle)))
    expected = nearer if nearer is not None else (low if abs(value - low) < abs(value - high) else high)
    assert numbers(stored(np.array([value])))[0] == np.float32(expected)


def test_every_bfloat16_survives_the_round_trip() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    number = ~np.isnan(numbers(every))
    np.testing.assert_array_equal(numbers(stored(numbers(every)))[number], numbers(every)[number])
    assert np.isnan(numbers(stored(numbers(every)))[~number]).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_pairs_are_the_same_numbers_rounded_alike(kind: type) -> None:
    every = np.random.default_rng(0).permutation(1 << 16).astype(np.uint16)
    values = np.empty((2, every.size // 2), np.float32)
    floats.decode_pairs(every.view(np.uint32), values)
    np.testing.assert_array_equal(values.T.ravel(), numbers(every))
    with np.errstate(all="ignore"):
        values *= np.float32(1.003)
        expected, out = stored(values.T.ravel()), np.empty(every.size // 2, np.uint32)
        wide = values.astype(kind)
        assert not floats.encode_pairs(wide, np.empty(wide.nbytes, np.uint8), out)
    np.testing.assert_array_equal(numbers(out.view(np.uint16)), numbers(expected))


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (3.3e38, True), (3.4e38, False), (np.inf, False)])
def test_what_is_not_finite_once_stored_is_seen(value: float, finite: bool) -> None:
    values = np.full((2, 50), 3.3e38, np.float32)  # their sum is infinite, they are not
    values[1, 7] = value
    for kind in (np.float32, np.float64):
        scratch, out = np.empty(100 * np.dtype(kind).itemsize, np.uint8), np.empty(50, np.uint32)
        assert floats.encode_pairs(values.astype(kind), scratch, out) == finite


def test_what_is_too_large_for_bfloat16_or_no_number() -> None:
    """Exponents beside those where the rounding's own constant leaves the range of float64."""
    large = [2.0**power for power in (127, 128, 977, 978, 979, 980, 1023)] + [math.inf]
    values = np.array([*large, *(-value for value in large), math.nan, 0.0, 2.0**-134, 2.0**-133])
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    same_numbers(stored(values), expected)


def test_float64_and_sizes_that_are_odd(copy_of: Copy, model_folder: Models, tmp_path: Path) -> None:
    folders = [copy_of(model_folder("llama"), str(i)) for i in range(2)]
    made = []
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        extra = {
            f"odd.{dtype}.{size}".replace("torch.", ""): torch.randn(size).to(dtype)
            for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)
            for size in (1, 3, 0, 262_145)
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


def test_a_mask_that_differs_has_no_mean(copy_of: Copy, model_folder: Models, tmp_path: Path) -> None:
    folders = [copy_of(model_folder("llama"), str(i)) for i in range(2)]
    for i, folder in enumerate(folders):
        save_file(
            tensors(folder) | {"model.rotary_emb.inv_freq": torch.tensor([1, i])},
            folder / "model.safetensors",
        )
    with pytest.raises(CheckpointError, match="inv_freq is I64, which has no mean"):
        merge(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


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


def layer_of(name: str) -> int | None:
    return int(name.split(".")[2]) if "layers" in name else None


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


def test_a_head_apart_has_no_mean_with_one_that_is_tied(model_folder: Models, tmp_path: Path) -> None:
    tied, apart = (model_folder("qwen2", tie_word_embeddings=tie) for tie in (True, False))
    with pytest.raises(CheckpointError, match="different models") as caught:
        merge([tied, apart], tmp_path / "out")
    setting, tensor = caught.value.problems
    assert setting.startswith("tie_word_embeddings is True in")
    assert tensor == f"lm_head.weight is only in {apart}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stored", [0, 1])
def test_a_tied_head_that_is_stored_nevertheless(
    model_folder: Models, copy_of: Copy, tmp_path: Path, stored: int
) -> None:
    """As some exports have it: the copy is left out, whichever model brings it."""
    pair = [copy_of(model_folder("qwen2", seed=seed), str(seed)) for seed in (1, 2)]
    models = [tensors(folder) for folder in pair]
    redundant = models[stored] | {"lm_head.weight": models[stored]["model.embed_tokens.weight"].clone()}
    save_file(redundant, pair[stored] / "model.safetensors", metadata={"format": "pt"})
    report = merge(pair, tmp_path / "out")
    assert_close(tensors(tmp_path / "out"), mean64(models, [1, 1]), models)
    assert report.parameters == sum(value.numel() for value in models[0].values())
    assert report.tensor_bytes == 4 * report.parameters
    assert verify(tmp_path / "out", forward=True).ok


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
        (2, {"method": "tize"}, "no merge method"),
        (2, {"weights": [1]}, "1 weights for 2"),
        (2, {"weights": [1, -1]}, "have no mean"),
        (2, {"weights": [1, math.nan]}, "finite numbers"),
        (2, {"t": 0.1}, "belongs to slerp"),
        (2, {"t": 0.5}, "belongs to slerp"),
        (2, {"base_model": "base"}, "belongs to task-arithmetic"),
        (2, {"weights": [[1, 0], [0, 1, 0]]}, "have no mean"),
        (2, {"weights": [[3, -1], 0]}, "changes its sign"),
        (2, {"weights": [[], 1]}, "finite numbers"),
        (1, {"method": "task-arithmetic", "weights": [1]}, "needs `base_model`"),
        (1, {"method": "task-arithmetic", "base_model": "base"}, "`weights` are needed"),
        (2, {"method": "slerp", "t": [0.5, 2]}, "from 0"),
        (2, {"method": "slerp", "weights": [0.5, 0.5]}, "belongs to linear"),
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
