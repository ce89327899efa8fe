"""Schedules by hand, settings and their errors, the metrics file, checkpoints that are whole or absent."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dusk.errors import SettingError
from dusk.train.checkpoints import mark_complete, newest_complete, prune
from dusk.train.metrics import MetricsFile
from dusk.train.schedule import SCHEDULES, rate_factor
from dusk.train.settings import TrainSettings


def factors(schedule: Any, steps: int = 10, **shares: float) -> list[float]:
    return [rate_factor(step, steps, schedule, **shares) for step in range(steps)]


class TestSchedules:
    def test_warm_up_reaches_the_peak_with_its_last_step(self):
        assert factors("constant", warmup=0.4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]

    def test_linear(self):
        assert factors("linear", 5) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
        assert factors("linear", 6, warmup=1 / 3) == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])

    def test_cosine(self):
        by_hand = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
        assert factors("cosine", 4) == pytest.approx(by_hand)

    def test_wsd_is_constant_and_then_falls_to_just_above_zero(self):
        assert factors("wsd", 8, decay=0.5) == pytest.approx([1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
        assert factors("wsd", 5, warmup=0.4, decay=0.2) == pytest.approx([0.5, 1, 1, 1, 0.5])

    def test_shares_are_not_rounded_up_by_floating_point(self):
        assert factors("constant", 70, warmup=0.1)[6] == 1  # 0.1 x 70 is 7.000000000000001
        assert factors("constant", 70, warmup=0.1)[5] == pytest.approx(6 / 7)

    @given(st.sampled_from(SCHEDULES), st.integers(1, 300), st.floats(0, 1), st.floats(0.01, 1))
    def test_every_step_moves_and_none_beyond_the_peak(
        self, schedule: Any, steps: int, warmup: float, decay: float
    ):
        found = factors(schedule, steps, warmup=warmup, decay=decay)
        assert all(0 < factor <= 1 for factor in found)


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("learning_rate", 0),
            ("learning_rate", float("inf")),
            ("learning_rate", float("nan")),
            ("schedule", "cosin"),
            ("warmup", -0.1),
            ("warmup", 1.1),
            ("decay", 0),
            ("batch_tokens", 0),
            ("micro_batch_tokens", 0),
            ("sequence_length", 1),
            ("epochs", 0),
            ("tokens", 0),
            ("weight_decay", -1),
            ("beta1", 1.0),
            ("beta2", -0.1),
            ("grad_clip", -1),
            ("seed", -1),
            ("precision", "fp16"),
            ("eval_every_tokens", 0),
            ("save_every_seconds", -1),
            ("threads", 0),
        ],
    )
    def test_out_of_range(self, name: str, value: Any):
        with pytest.raises(SettingError, match=f"{name} is {value}, and must be"):
            TrainSettings(**{name: value})

    def test_all_faults_at_once(self):
        with pytest.raises(SettingError) as caught:
            TrainSettings(epochs=0, learning_rate=-1, threads=0)
        assert len(caught.value.problems) == 3

    def test_wsd_needs_room_for_both_ends(self):
        with pytest.raises(SettingError, match="with the warmup"):
            TrainSettings(schedule="wsd", warmup=0.5, decay=0.6)
        TrainSettings(schedule="linear", warmup=0.5, decay=0.6)

    def test_what_is_given_stands_over_the_defaults_of_an_objective_and_none_does_not(self):
        made = TrainSettings.of({"epochs": 2, "seed": None}, epochs=1, seed=5, warmup=0.2)
        assert (made.epochs, made.seed, made.warmup) == (2, 5, 0.2)

    def test_unknown_names(self):
        with pytest.raises(SettingError, match="Did you mean batch_tokens"):
            TrainSettings.of({"batch_token": 1})


class TestMetricsFile:
    def test_a_line_cut_off_by_a_kill_is_left_out(self, tmp_path: Path):
        file = MetricsFile(tmp_path / "metrics.jsonl")
        assert file.rows() == []
        for step in range(4):
            file.write("train", step=step)
        with file.path.open("a") as stream:
            stream.write('{"kind": "train", "st')
        assert [row["step"] for row in file.rows()] == [0, 1, 2, 3]
        file.cut_back(1)
        file.write("eval", step=2)
        assert [(row["kind"], row["step"]) for row in file.rows()] == [
            ("train", 0),
            ("train", 1),
            ("eval", 2),
        ]
        file.cut_back(-1)
        assert file.rows() == []


class TestCheckpoints:
    def made(self, folder: Path, step: int, *, whole: bool = True) -> Path:
        path = folder / f"checkpoint-{step}"
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "weights").write_text("w")
        if whole:
            mark_complete(path)
        return path

    def test_the_newest_whole_one_is_taken_and_torn_ones_are_removed(self, tmp_path: Path):
        assert newest_complete(tmp_path) is None
        torn = [self.made(tmp_path, step, whole=False) for step in (3, 20)]
        whole = [self.made(tmp_path, step) for step in (2, 10)]
        assert newest_complete(tmp_path) == whole[1]
        assert not any(path.exists() for path in torn)

    def test_pruning_keeps_the_newest(self, tmp_path: Path):
        for step in (9, 10, 8):
            self.made(tmp_path, step)
        torn = self.made(tmp_path, 11, whole=False)
        prune(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", torn.name]
