"""The guard against spikes: what it skips, that a skipped update changes nothing, and what ends a run."""

import json
from pathlib import Path
from typing import Any

import pytest

import dusk
from dusk.errors import SettingError, WorkError
from dusk.train import objectives
from dusk.train.settings import TrainSettings
from dusk.train.spikes import SpikeGuard
from train_models import (
    KillAfter,
    Killed,
    assert_same_weights,
    metrics,
    save_base,
    text,
    text_file,
    write_rows,
)

SETTINGS: dict[str, Any] = {"batch_tokens": 100, "tokens": 600, "learning_rate": 1e-3, "threads": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


def steady(guard: SpikeGuard, steps: int = 20) -> SpikeGuard:
    guard.recall((2.0 + step % 2 / 10, 1.0 + step % 2 / 10) for step in range(steps))  # deviations of 0.05
    return guard


def test_what_is_far_above_the_last_steps_is_refused():
    guard = steady(SpikeGuard(6.0))
    assert not guard.refuses(1, 2.05 + 0.29, 1.05 + 0.29)
    assert guard.refuses(2, 2.05 + 0.31, 1.0)
    assert guard.refuses(3, 2.0, 1.05 + 0.31)
    assert not guard.refuses(4, 0.1, 0.01)
    assert not steady(SpikeGuard(6.0), 15).refuses(1, 50.0, 50.0)  # too few to judge by
    assert SpikeGuard(6.0).refuses(1, float("nan"), 1.0)
    assert SpikeGuard(6.0).refuses(1, 1.0, float("inf"))


def test_a_run_that_skips_ten_times_in_a_row_has_diverged():
    guard = SpikeGuard(6.0)
    for step in range(9):
        assert guard.refuses(step, float("nan"), 1.0)
    guard.accepted(1.0, 1.0)
    for step in range(9):
        assert guard.refuses(step, float("nan"), 1.0)
    with pytest.raises(WorkError, match="10 updates in a row were skipped, the last at step 9"):
        guard.refuses(9, float("nan"), 1.0)


def broken_at(monkeypatch: pytest.MonkeyPatch, wrong: set[int]) -> None:
    """Make the loss of some forward passes (counted from 1) no number."""
    original, calls = objectives.NextToken.__call__, [0]

    def call(self: Any, model: Any, batch: Any) -> Any:
        calls[0] += 1
        total, sums = original(self, model, batch)
        return (total * float("nan") if calls[0] in wrong else total), sums

    monkeypatch.setattr(objectives.NextToken, "__call__", call)


def test_a_skipped_update_is_told_and_changes_no_weight(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first step that is made meets the model of the start, though decay would have moved it."""
    broken_at(monkeypatch, {1, 2})
    given = {**SETTINGS, "weight_decay": 0.5, "warmup": 0.0, "schedule": "constant"}
    data = write_rows(tmp_path / "same.jsonl", [{"text": text(30, 0)}] * 20)
    dusk.pretrain(base, tmp_path / "out", data=data, spike_guard=6.0, **given)
    rows = metrics(tmp_path / "out")
    assert [row["kind"] for row in rows][:4] == ["skipped", "skipped", "train", "train"]
    assert rows[0]["loss"] == "nan"
    json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)
    monkeypatch.undo()
    dusk.pretrain(base, tmp_path / "whole", data=data, **given)
    assert rows[2]["loss"] == pytest.approx(metrics(tmp_path / "whole")[0]["loss"], rel=1e-6)


def test_without_the_guard_it_stops_and_with_it_goes_on_from_before(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = text_file(tmp_path)
    with monkeypatch.context() as patch:
        broken_at(patch, {4})
        with pytest.raises(WorkError, match=r"diverged at step 4(.|\n)*--spike-guard 6"):
            dusk.pretrain(base, tmp_path / "out", data=data, save_every_seconds=0, **SETTINGS)
    assert (tmp_path / "out.partial").exists()
    with monkeypatch.context() as patch:
        broken_at(patch, {1})  # the first pass after the checkpoint of step 3 is that of step 4
        dusk.pretrain(base, tmp_path / "out", data=data, spike_guard=6.0, **SETTINGS)
    kinds = [row["kind"] for row in metrics(tmp_path / "out")]
    assert kinds[:5] == ["train"] * 3 + ["skipped", "train"]


def test_a_guarded_run_continues_bit_equal(base: Path, tmp_path: Path):
    given = {
        **SETTINGS,
        "data": text_file(tmp_path),
        "spike_guard": 1.1,
        "tokens": 3500,
        "learning_rate": 1e-6,
    }
    dusk.pretrain(base, tmp_path / "whole", **given)
    kinds = [row["kind"] for row in metrics(tmp_path / "whole")]
    assert "skipped" in kinds[16:]  # so near to the mean some are
    with pytest.raises(Killed):
        dusk.pretrain(base, tmp_path / "out", save_every_seconds=0, progress=KillAfter(22), **given)
    dusk.pretrain(base, tmp_path / "out", **given)
    assert metrics(tmp_path / "out") == metrics(tmp_path / "whole")
    assert_same_weights(tmp_path / "out", tmp_path / "whole")


def test_a_tracker_that_is_not_installed(base: Path, tmp_path: Path):
    with pytest.raises(SettingError, match=r"report_to needs wandb(.|\n)*pip install wandb"):
        dusk.pretrain(base, tmp_path / "out", data=text_file(tmp_path), report_to="wandb", **SETTINGS)
    with pytest.raises(SettingError, match="report_to is comet, and must be of trackio, wandb, tensorboard"):
        TrainSettings(report_to="comet")
