"""TIES, DARE and model stock against their formulas written out in float64, whole tensors at a time."""

import hashlib
import itertools
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
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from dusk.checkpoint import verify
from dusk.errors import SettingError
from dusk.merge import merge
from dusk.merge.dare import key_of, numbers
from dusk.merge.model_stock import interpolation
from dusk.merge.selection import kth_largest, lower_counts, magnitude_of, upper_counts
from merge_reference import Tensors, assert_close, layer_of, tensors

Models = Callable[..., Path]
Copy = Callable[..., Path]


def ties64(
    models: Sequence[Tensors], base: Tensors, weights: Sequence[float], density: Any, scaling: float = 1.0
) -> Tensors:
    """`density` is one number, or a function of a tensor's name."""
    found = {}
    for name, x0 in base.items():
        if not x0.numel():
            found[name] = x0.double()
            continue
        k = max(1, int((density(name) if callable(density) else density) * x0.numel()))
        voting = []
        for model, weight in zip(models, weights, strict=True):
            difference = model[name].double() - x0.double()
            size = difference.float().abs()
            least = size.flatten().sort(descending=True).values[k - 1]
            voting.append(weight * difference * (size >= least))
        elected = torch.where(sum(voting) >= 0, 1.0, -1.0)
        agreeing = [(vote.sign() == elected).double() for vote in voting]
        share = sum(w * agrees for w, agrees in zip(weights, agreeing, strict=True))
        total = sum(vote * agrees for vote, agrees in zip(voting, agreeing, strict=True))
        found[name] = x0.double() + scaling * total / torch.where(share == 0, 1.0, share)
    return found


def stock64(models: Sequence[Tensors], base: Tensors) -> Tensors:
    found, count = {}, len(models)
    for name, x0 in base.items():
        moved = [model[name].double() - x0.double() for model in models]
        cosines = [
            float((x * y).sum() / max(float(x.norm() * y.norm()), 1e-6))
            for x, y in itertools.combinations(moved, 2)
        ]
        cosine = sum(cosines) / len(cosines)
        t = count * cosine / (1 + (count - 1) * cosine)
        found[name] = t * sum(model[name].double() for model in models) / count + (1 - t) * x0.double()
    return found


def dare64(
    models: Sequence[Tensors], base: Tensors, weights: Sequence[float], density: float, seed: int
) -> Tensors:
    """Drawn for whole tensors at once."""
    found = {}
    for name, x0 in base.items():
        found[name] = x0.double()
        for number, (model, weight) in enumerate(zip(models, weights, strict=True)):
            stays = kept(seed, name, number, x0.numel(), density).reshape(x0.shape)
            found[name] = found[name] + weight * (model[name].double() - x0.double()) * stays / density
    return found


def kept(seed: int, name: str, model: int, count: int, density: float) -> torch.Tensor:
    key = hashlib.sha256(f"{seed}\0{model}\0{name}".encode()).digest()
    halves = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")]
    stream = np.random.Philox(key=np.array(halves, np.uint64))
    words = stream.random_raw(count // 2 + 1)
    drawn = np.stack([words & np.uint64(2**32 - 1), words >> np.uint64(32)], axis=1).ravel()[:count]
    return torch.from_numpy(drawn / 2**32 < density)


@pytest.fixture
def family(model_folder: Models, copy_of: Copy) -> Callable[[str], list[Path]]:
    """Three models beside their base: near to it as fine-tunes are, many values the same, some far."""

    def make(dtype: str) -> list[Path]:
        base = model_folder("mistral", dtype=dtype)
        folders = []
        for seed in (1, 2, 3):
            draw = torch.Generator().manual_seed(seed)
            folders.append(copy_of(base, f"tuned-{seed}"))
            moved = {
                name: (x + torch.randn(x.shape, generator=draw) * 0.03 * (x.abs() > 0.05)).to(x.dtype)
                for name, x in tensors(base).items()
            }
            save_file(moved, folders[-1] / "model.safetensors", metadata={"format": "pt"})
        return [*folders, base]

    return make


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("weights", "density", "scaling"),
    [(None, None, None), ([0.7, 0.5, 1.0], 0.4, 1.5), ([0, 1, 2], 1.0, -0.3), (None, 1e-9, None)],
)
def test_ties(
    family: Any, tmp_path: Path, dtype: str, weights: Any, density: float | None, scaling: float | None
) -> None:
    *folders, base = family(dtype)
    settings = {"weights": weights, "density": density, "scaling": scaling}
    report = merge(folders, tmp_path / "out", method="ties", base_model=base, **settings)
    models, x0 = [tensors(folder) for folder in folders], tensors(base)
    expected = ties64(models, x0, weights or [1, 1, 1], density or 0.2, 1.0 if scaling is None else scaling)
    found = tensors(tmp_path / "out")
    assert_close(found, expected, [*models, *models, x0])
    assert any(not torch.equal(found[name], x0[name]) for name in x0)
    told = {"weights": weights or [1, 1, 1], "density": density or 0.2, "scaling": scaling or 1.0}
    assert report.settings == {"method": "ties"} | told
    assert verify(tmp_path / "out").ok


def test_ties_by_hand(model_folder: Models, copy_of: Copy, tmp_path: Path) -> None:
    """The paper's figure 1 in numbers: trimmed, outvoted, agreeing, and two that cancel each other."""
    folders = [copy_of(model_folder("llama"), str(i)) for i in range(3)]
    base = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    differences = [[4, 3, 2, -2, 0.5, 0], [2, -1, -3, 2, 0, 0]]  # of six, four stay: the fourth is 2, then 1
    merged = [1 + 3, 1 + 3, 1 - 3, 1 + 2, 1, 1]
    for folder, values in zip(folders, [*[np.add(base, d) for d in differences], base], strict=True):
        stored = tensors(folder) | {"by.hand": torch.tensor(values, dtype=torch.float32)}
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        config = (folder / "config.json").read_text().replace('"llama"', '"unknown"')
        (folder / "config.json").write_text(config)
    merge(folders[:2], tmp_path / "out", method="ties", base_model=folders[2], density=0.7)
    assert tensors(tmp_path / "out")["by.hand"].tolist() == merged


def test_density_over_the_depth(family: Any, tmp_path: Path) -> None:
    *folders, base = family("float32")
    merge(folders, tmp_path / "out", method="ties", base_model=base, density=[0.1, 1.0])
    models, x0 = [tensors(folder) for folder in folders], tensors(base)
    places = {name: 0.1 + 0.9 * (layer_of(name) or 0) / 3 for name in x0}
    expected = ties64(models, x0, [1, 1, 1], places.__getitem__)
    assert_close(tensors(tmp_path / "out"), expected, [*models, x0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("weights", "density"), [([0.5, 0.3, -0.2], 0.3), ([1, 1, 1], None)])
def test_dare(family: Any, tmp_path: Path, dtype: str, weights: list[float], density: float | None) -> None:
    *folders, base = family(dtype)
    settings = {"weights": weights, "density": density, "base_model": base}
    merge(folders, tmp_path / "out", method="dare", seed=7, **settings)
    models, x0 = [tensors(folder) for folder in folders], tensors(base)
    share = density or 0.1
    expected = dare64(models, x0, weights, share, 7)
    assert_close(tensors(tmp_path / "out"), expected, [*models, x0] * math.ceil(1 / share))
    merge(folders, tmp_path / "other", method="dare", seed=8, **settings)
    other = tensors(tmp_path / "other")
    assert not torch.equal(other["lm_head.weight"], tensors(tmp_path / "out")["lm_head.weight"])


def test_dare_of_everything_is_task_arithmetic(family: Any, tmp_path: Path) -> None:
    *folders, base = family("bfloat16")
    for method, more in (("dare", {"density": 1.0}), ("task-arithmetic", {})):  # both exact in float64
        merge(folders, tmp_path / method, method=method, weights=[0.5, 0.25, 0.125], base_model=base, **more)
    x, y = tensors(tmp_path / "dare"), tensors(tmp_path / "task-arithmetic")
    assert all(torch.equal(x[name], y[name]) for name in x)


def test_dare_keeps_its_share_of_every_difference_and_no_two_alike() -> None:
    masks = [kept(0, name, model, 40_000, 0.3) for name in ("a", "b") for model in (0, 1)]
    for stays in masks:  # four standard deviations
        assert abs(float(stays.double().mean()) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 40_000)
    for x, y in itertools.combinations(masks, 2):  # independent: as many in both as chance has
        assert abs(float((x & y).double().mean()) - 0.09) < 4 * math.sqrt(0.09 * 0.91 / 40_000)


@given(st.integers(0, 300), st.integers(1, 100), st.integers(0, 9))
def test_numbers_begin_anywhere(begin: int, count: int, seed: int) -> None:
    key = key_of(seed, "a tensor", 1)
    np.testing.assert_array_equal(numbers(key, begin, count), numbers(key, 0, 400)[begin : begin + count])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [2, 3])
def test_model_stock(family: Any, tmp_path: Path, dtype: str, count: int) -> None:
    *folders, base = family(dtype)
    merge(folders[:count], tmp_path / "out", method="model-stock", base_model=base)
    models, x0 = [tensors(folder) for folder in folders[:count]], tensors(base)
    found = tensors(tmp_path / "out")
    assert_close(found, stock64(models, x0), [*models, x0])
    assert any(not torch.equal(found[name], x0[name]) for name in x0)


@pytest.mark.parametrize(
    ("products", "expected"),
    [
        ([[1, 1], [1, 1]], 1),  # the same difference: the mean
        ([[1, 0], [0, 4]], 0),  # at right angles: the base
        ([[1, 1], [1, 4]], 2 * 0.5 / 1.5),
        ([[1, -1], [-1, 1]], 0),  # opposite: no t exists
        ([[0, 0], [0, 0]], 0),  # no difference at all
        ([[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]], 3 * 0.5 / 2),
    ],
)
def test_interpolation_at_the_edges(products: list[list[float]], expected: float) -> None:
    assert interpolation(np.array(products, float)) == pytest.approx(expected)


@given(
    arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False)), st.data()
)
def test_the_kth_largest_magnitude_is_found_by_counting(values: np.ndarray, data: st.DataObject) -> None:
    magnitudes, k = np.abs(values), data.draw(st.integers(1, len(values)))
    upper, rest = kth_largest(upper_counts(magnitudes), k)
    lower, _ = kth_largest(lower_counts(magnitudes, upper), rest)
    assert magnitude_of(upper, lower) == np.sort(magnitudes)[-k]


@pytest.mark.parametrize("method", ["ties", "dare", "model-stock"])
def test_pieces_blocks_shards_and_threads_change_nothing(
    model_folder: Models, tmp_path: Path, monkeypatch: Any, method: str
) -> None:
    """The sizes are odd ones, so that pieces begin and end anywhere."""
    settings = {"weights": [0.4, 0.7]} if method == "dare" else {}
    folders = {
        shard: [model_folder("llama", seed=seed, dtype="bfloat16", shard=shard) for seed in (1, 2, 3)]
        for shard in ("5GB", "20KB")
    }
    *models, base = folders["5GB"]
    merge(models, tmp_path / "whole", method=method, base_model=base, **settings)
    monkeypatch.setattr(sys.modules["dusk.merge.crew"], "lane_count", lambda: 5)
    monkeypatch.setattr(sys.modules["dusk.merge.pieces"], "PIECE_ELEMENTS", 98)
    monkeypatch.setattr(sys.modules["dusk.merge.writing"], "_TASK_ELEMENTS", 1000)
    monkeypatch.setattr(sys.modules["dusk.merge.writing"], "_MEASURED_AHEAD_BYTES", 3000)
    monkeypatch.setattr(sys.modules["dusk.merge.blocks"], "BLOCK_BYTES", 4096)
    monkeypatch.setattr(sys.modules["dusk.merge.run"], "SHARD_LIMIT_BYTES", 40_000)
    *models, base = folders["20KB"]
    merge(models, tmp_path / "pieces", method=method, base_model=base, **settings)
    shards = sorted((tmp_path / "pieces").glob("*.safetensors"))
    assert len(shards) > 1
    x, y = tensors(tmp_path / "whole"), {k: v for shard in shards for k, v in load_file(shard).items()}
    assert x.keys() == y.keys()
    assert all(torch.equal(x[name], y[name]) for name in x)


@pytest.mark.parametrize("method", ["slerp", "ties", "dare", "model-stock"])
@pytest.mark.parametrize("dtypes", [("float64", "float64", "float32"), ("bfloat16", "float16", "bfloat16")])
def test_types_side_by_side_empty_tensors_and_what_is_no_number(
    model_folder: Models, copy_of: Copy, tmp_path: Path, method: str, dtypes: tuple[str, ...]
) -> None:
    folders = [copy_of(model_folder("llama", dtype=dtype), str(i)) for i, dtype in enumerate(dtypes)]
    models = []
    for seed, (folder, dtype) in enumerate(zip(folders, dtypes, strict=True)):
        torch.manual_seed(seed)
        kind = getattr(torch, dtype)
        extra = {f"odd.{size}": torch.randn(size).to(kind) for size in (0, 1, 3, 131_073)}
        extra["broken"] = torch.tensor([1.0, math.nan if seed == 0 else 2.0, 3.0, seed]).to(kind)
        models.append(tensors(folder) | extra)
        save_file(models[-1], folder / "model.safetensors", metadata={"format": "pt"})
        config = (folder / "config.json").read_text().replace('"llama"', '"unknown"')
        (folder / "config.json").write_text(config)
    if method == "slerp":
        report = merge(folders[:2], tmp_path / "out", method=method)
    else:
        more = {"weights": [0.4, 0.6], "seed": 1, "density": 0.5} if method == "dare" else {}
        report = merge(folders[:2], tmp_path / "out", method=method, base_model=folders[2], **more)
    found = tensors(tmp_path / "out")
    assert found["odd.0"].shape == (0,)
    assert "broken" in report.warnings[-1]
    assert found["broken"].isnan()[1]
    if method in {"ties", "dare"}:
        *tuned, base = [{n: x for n, x in model.items() if n != "broken"} for model in models]
        expected = (
            ties64(tuned, base, [1, 1], 0.2) if method == "ties" else dare64(tuned, base, [0.4, 0.6], 0.5, 1)
        )
        assert_close({n: x for n, x in found.items() if n != "broken"}, expected, [*tuned, base] * 2)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("ties", {}, "needs `base_model`"),
        ("ties", {"base_model": "b", "density": 0}, "above 0 and at most 1"),
        ("ties", {"base_model": "b", "density": [0.5, 1.5]}, "density` is 0.5, 1.5"),
        ("ties", {"base_model": "b", "weights": [1, -1]}, "cannot be negative"),
        ("ties", {"base_model": "b", "scaling": math.inf}, "finite number"),
        ("ties", {"base_model": "b", "seed": 1}, "`seed` belongs to dare"),
        ("dare", {"base_model": "b"}, "`weights` are needed"),
        ("dare", {"base_model": "b", "weights": [1, 1], "scaling": 2.0}, "`scaling` belongs to ties"),
        ("model-stock", {"base_model": "b", "weights": [1, 1]}, "`weights` belongs to linear"),
        ("linear", {"density": 0.5}, "`density` belongs to ties, dare"),
    ],
)
def test_bad_settings(tmp_path: Path, method: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        merge(["x", "y"], tmp_path / "out", method=method, **settings)


def test_model_stock_needs_two_models(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="at least two models; 1 given"):
        merge(["x"], tmp_path / "out", method="model-stock", base_model="b")
