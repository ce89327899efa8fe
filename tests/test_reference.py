"""Reference log-probabilities: kept by what they depend on, resumed piece by piece; presets of alignment."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dusk
from dusk.data.stores import pair_store
from dusk.data.templates import SOLAR
from dusk.errors import SettingError
from dusk.train import reference
from dusk.train.model import load_model
from dusk.train.reference import reference_logs
from dusk.train.settings import TrainSettings
from dusk.train.vocabulary import load_tokenizer
from train_models import Killed, assert_same_weights, metrics, pair_file, save_base

SETTINGS: dict[str, Any] = {"batch_tokens": 400, "learning_rate": 1e-3, "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pairs of each reference pass that is really made."""
    made: list[int] = []
    original = reference.document_nats

    def counted(model: Any, store: Any, **given: Any) -> Any:
        made.append(store.units)
        return original(model, store, **given)

    monkeypatch.setattr(reference, "document_nats", counted)
    return made


def test_another_run_on_the_same_model_and_data_need_not_compute_them_again(
    base: Path, tmp_path: Path, passes: list[int]
):
    steps = [pair_file(tmp_path, name="one.jsonl"), pair_file(tmp_path, name="two.jsonl", seed=500)]
    cache = tmp_path / "cache"
    dusk.align(base, tmp_path / "one", steps=steps, reference_cache=cache, **SETTINGS)
    assert passes == [24, 24, 24]  # both files under the start, the second under the model of step one
    dusk.align(base, tmp_path / "two", steps=steps, reference_cache=cache, beta=0.5, **SETTINGS)
    assert passes == [24] * 4  # step one went elsewhere, so its model is another
    dusk.align(base, tmp_path / "again", steps=steps, reference_cache=cache, **SETTINGS)
    assert passes == [24] * 4
    assert_same_weights(tmp_path / "again", tmp_path / "one")
    assert metrics(tmp_path / "again") == metrics(tmp_path / "one")
    other = save_base(tmp_path / "other", seed=1)
    dusk.align(other, tmp_path / "three", steps=steps[:1], reference_cache=cache, **SETTINGS)
    assert passes == [24] * 5


def test_two_runs_that_compute_the_same_at_the_same_time_both_end(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, settings = load_model(base), TrainSettings()
    store, _ = pair_store([pair_file(tmp_path)], load_tokenizer(base, model), SOLAR, sequence_length=128)
    monkeypatch.setattr(reference, "_PIECE_TOKENS", store.tokens.size // 3)
    original, found = reference.document_nats, []

    def beside_another(*args: Any, **given: Any) -> Any:
        with monkeypatch.context() as patch:  # it begins and ends within our second piece
            patch.setattr(reference, "document_nats", original)
            if (tmp_path / "cache").exists() and not found:
                found.append(reference_logs(tmp_path / "cache", "sha256:abc", model, store, settings))
        return original(*args, **given)

    monkeypatch.setattr(reference, "document_nats", beside_another)
    logs = reference_logs(tmp_path / "cache", "sha256:abc", model, store, settings)
    np.testing.assert_array_equal(logs, found[0])
    (kept,) = (tmp_path / "cache").iterdir()
    np.testing.assert_array_equal(np.load(kept), logs)


def test_a_pass_that_was_killed_goes_on_behind_its_last_piece(
    base: Path, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
):
    model = load_model(base)
    store, _ = pair_store([pair_file(tmp_path)], load_tokenizer(base, model), SOLAR, sequence_length=128)
    settings = TrainSettings()
    whole = reference_logs(tmp_path / "whole", "sha256:abc", model, store, settings)
    assert passes.pop() == 24
    monkeypatch.setattr(reference, "_PIECE_TOKENS", store.tokens.size // 3)
    counted = reference.document_nats

    def killed(*args: Any, **given: Any) -> Any:
        if len(passes) == 2:
            raise Killed
        return counted(*args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(reference, "document_nats", killed)
        with pytest.raises(Killed):
            reference_logs(tmp_path / "cache", "sha256:abc", model, store, settings)
    before = list(passes)
    logs = reference_logs(tmp_path / "cache", "sha256:abc", model, store, settings)
    assert sum(passes) == 24 > sum(before) > 0
    np.testing.assert_allclose(logs, whole, rtol=1e-6)
    assert [file.name.startswith("reference-abc-") for file in (tmp_path / "cache").iterdir()] == [True]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("zephyr-paper", {"beta": 0.1, "schedule": "linear", "epochs": 3, "batch_pairs": 32}),
        ("zephyr-recipe", {"beta": 0.01, "schedule": "cosine", "epochs": 1, "batch_pairs": 128}),
    ],
)
def test_presets(base: Path, tmp_path: Path, preset: str, expected: dict[str, Any]):
    """What is given goes before the preset; 24 pairs in batches of 8 are 3 updates an epoch."""
    data = pair_file(tmp_path)
    given: dict[str, Any] = {"sequence_length": 128, "precision": "fp32", "threads": 1}
    dusk.align(base, tmp_path / "out", steps=data, preset=preset, batch_pairs=8, **given)
    settings = json.loads((tmp_path / "out" / "dusk.json").read_text())["settings"]
    same = {"learning_rate": 5e-7, "warmup": 0.1, "weight_decay": 0.0}
    wanted = {**expected, **same, "batch_pairs": 8}
    assert {name: settings[name] for name in wanted} == wanted
    assert len(metrics(tmp_path / "out")) == pytest.approx(3 * expected["epochs"], rel=0.35)  # of mean length


def test_faults_are_told_at_once(base: Path, tmp_path: Path):
    with pytest.raises(SettingError) as caught:
        dusk.align(
            base, tmp_path / "out", steps=[], preset="mistral", batch_pairs=2, batch_tokens=8, beta=-1.0
        )
    told = str(caught.value)
    assert all(
        part in told for part in ("no --step", "preset is mistral", "each say the size", "beta is -1.0")
    )
