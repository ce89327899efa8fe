"""The report's verdict: who passed whom after how many tokens, found in the arms and told in a sentence."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import report_runs
from dusk.report.arms import (
    CONTROL,
    SAME_COMPUTE,
    SAME_TOKENS,
    CurvePoint,
    base_level,
    find_arms,
    flops_per_token,
)
from dusk.report.evaluations import read_evaluations
from dusk.report.run_folder import read_run
from dusk.report.verdict import Outcome, crossing, recovery_of, verdict_of
from report_runs import page, sentence, whole_run, without, write_run, write_scored_run, write_scores

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(write_scored_run, tmp_path / "run")


def curve(*points: tuple[float, float]) -> list[CurvePoint]:
    return [CurvePoint(tokens, None, value) for tokens, value in points]


class TestVerdict:
    def test_recovered_better_and_no_different(self, write: Write) -> None:
        told = sentence(write(whole_run()))
        assert told.startswith("The 12-layer scaled model passed its 8-layer base after 600k tokens; ")
        assert (
            "against the base given the same tokens it is better by 0.020 bits per byte (95 % interval 0.0"
            in told
        )
        assert "against the base given the same compute there is no difference within the noise" in told

    def test_the_interval_is_the_paired_bootstraps(self, write: Write) -> None:
        folder = write(whole_run())
        run = read_run(folder)
        (evaluation,) = read_evaluations(run)
        gain = verdict_of(find_arms(run), [evaluation]).gains[0]
        assert gain.value == pytest.approx(0.02)
        assert gain.low is not None
        assert gain.high is not None
        assert gain.low < gain.value < gain.high
        # two models' own noise of 0.03 a document over 80 documents: 1.96 * 0.03 * sqrt(2 / 80)
        assert (gain.high - gain.low) / 2 == pytest.approx(0.0093, rel=0.25)
        assert gain.items == 80

    def test_worse_is_said_plainly(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", whole_run())
        write_scores(folder / "scores", {**report_runs.SCORES, "recovered": (0.1, 0.4, 0.1)})
        assert "against the base given the same tokens it is worse by 0.080 bits per byte" in sentence(folder)

    def test_not_recovered(self, write: Write) -> None:
        stages = [
            replace(stage, curve=((0, 2.5), (800_000, 2.39), (1_600_000, 2.41)))
            if stage.name == "recovered"
            else stage
            for stage in whole_run()
        ]
        told = sentence(write(stages))
        assert "has not recovered within 1.6M tokens: its 8-layer base is still better" in told

    def test_never_worse(self, write: Write) -> None:
        stages = [
            replace(stage, curve=((0, 2.39), (1_600_000, 2.3))) if stage.name == "recovered" else stage
            for stage in whole_run()
        ]
        assert "was never measured worse than its 8-layer base" in sentence(write(stages))

    def test_without_items_there_is_no_interval(self, write: Write) -> None:
        folder = write(without(whole_run(), "scores"), scores=False)
        told = sentence(folder)
        assert "it measures 0.020 bits per byte better, with no interval to say whether that is noise" in told

    def test_without_controls(self, write: Write) -> None:
        folder = write(without(whole_run(), "base_same_tokens", "base_same_compute"), scores=False)
        told = sentence(folder)
        assert "is not known: the held-out loss of its 8-layer base was not measured" in told
        assert "it was not compared with the base given the same tokens or the same compute" in told
        assert "The run has no controls" in page(folder)

    def test_without_recovery_training(self, write: Write) -> None:
        folder = write(whole_run()[:4], scores=False)
        assert "was not trained after it was scaled" in sentence(folder)

    def test_without_a_scaled_model(self, write: Write) -> None:
        folder = write(whole_run()[:3], scores=False)
        assert sentence(folder) == "This run scales no model, so there is no recovery to report."

    def test_a_crossing_in_the_decay_is_told(self, write: Write) -> None:
        stages = [
            replace(stage, curve=((0, 2.5), (1_200_000, 2.45), (1_600_000, 2.3)))
            if stage.name == "recovered"
            else stage
            for stage in whole_run()
        ]
        folder = write(stages)
        assert recovery_of(find_arms(read_run(folder))).in_decay
        assert "while its own learning rate decayed" in page(folder)

    def test_one_run_is_called_one_run(self, write: Write) -> None:
        assert "They do not hold what another seed of the training would change" in page(write(whole_run()))


class TestCrossing:
    def test_linear_between_measurements(self) -> None:
        # from 2.6 to 2.2 over 400 tokens the level 2.5 lies a quarter of the way
        assert crossing(curve((0, 2.8), (100, 2.6), (500, 2.2)), 2.5) == pytest.approx(200)

    def test_a_dip_that_comes_back_is_no_crossing(self) -> None:
        assert crossing(curve((0, 2.8), (100, 2.4), (200, 2.6)), 2.5) is None

    def test_the_last_crossing_counts(self) -> None:
        points = curve((0, 2.8), (100, 2.4), (200, 2.6), (300, 2.4))
        assert crossing(points, 2.5) == pytest.approx(250)

    def test_meeting_the_level_is_enough(self) -> None:
        assert crossing(curve((0, 2.8), (100, 2.5)), 2.5) == pytest.approx(100)

    def test_nothing_measured(self) -> None:
        assert crossing([], 2.5) is None


class TestArms:
    def test_roles_by_name(self, write: Write) -> None:
        arms = find_arms(read_run(write(whole_run())))
        assert arms.base is not None
        assert arms.base.name == "constant"
        assert arms.recovery is not None
        assert arms.recovery.final.name == "recovered"
        assert [(arm.final.name, arm.role) for arm in arms.controls] == [
            ("base_same_tokens", SAME_TOKENS),
            ("base_same_compute", SAME_COMPUTE),
        ]

    @pytest.mark.parametrize(
        ("tokens", "role"), [(1_600_000, SAME_TOKENS), (2_032_281, SAME_COMPUTE), (3_000_000, CONTROL)]
    )
    def test_roles_by_tokens_and_compute(self, write: Write, tokens: int, role: str) -> None:
        # 1.6M tokens of 724k parameters are as much compute as 2 032 281 of 570k
        other = replace(whole_run()[5], name="other", curve=((0, 2.4), (tokens, 2.3)))
        arms = find_arms(read_run(write([*whole_run()[:5], other], scores=False)))
        assert [arm.role for arm in arms.controls] == [role]

    def test_role_in_the_settings(self, write: Write) -> None:
        other = whole_run()[5]
        other.settings["role"] = "same_compute"
        arms = find_arms(read_run(write([*whole_run()[:5], other], scores=False)))
        assert arms.controls[0].role == SAME_COMPUTE

    def test_stages_that_continue_each_other_are_one_arm(self, write: Write) -> None:
        first, second = whole_run()[4], replace(whole_run()[4], name="decay", uses=("recovered",))
        second.settings = {**second.settings, "model": "recovered"}
        arms = find_arms(read_run(write([*whole_run()[:4], first, second], scores=False)))
        assert arms.recovery is not None
        assert arms.recovery.tokens == 3_200_000
        assert [point.tokens for point in arms.recovery.curve][-2:] == [2_800_000, 3_200_000]
        assert arms.recovery.decay_tokens == 1_600_000 + 1_200_000

    def test_level_from_a_control_before_its_first_step(self, write: Write) -> None:
        arms = find_arms(read_run(write(whole_run())))
        assert base_level(arms) == 2.4
        assert recovery_of(arms).outcome is Outcome.RECOVERED

    def test_level_of_a_base_that_was_measured_on_the_same_texts(self, write: Write) -> None:
        folder = write(without(whole_run(), "base_same_tokens", "base_same_compute"), scores=False)
        text = {"path": "/there/heldout.jsonl", "name": "heldout.jsonl", "digest": "d1"}
        for name in ("recovered", "constant"):
            file = folder / name / "dusk.json"
            manifest = json.loads(file.read_text())
            manifest["inputs"] = [text]
            manifest["results"]["heldout"] = {"bits_per_byte": 2.4}
            file.write_text(json.dumps(manifest))
        assert base_level(find_arms(read_run(folder))) == 2.4
        manifest["inputs"] = [{**text, "digest": "d2"}]
        file.write_text(json.dumps(manifest))
        assert base_level(find_arms(read_run(folder))) is None

    def test_compute_of_a_token(self, write: Write) -> None:
        folder = write(whole_run())
        stage = read_run(folder).stage("recovered")
        assert stage is not None
        assert flops_per_token(stage) == 6 * 724_000
        config = {
            "num_hidden_layers": 12,
            "tie_word_embeddings": False,
            "vocab_size": 2048,
            "hidden_size": 64,
        }
        (folder / "recovered" / "config.json").write_text(json.dumps(config))
        untied = read_run(folder).stage("recovered")
        assert untied is not None
        assert flops_per_token(untied) == 6 * (724_000 - 2048 * 64)
        assert flops_per_token(replace(stage, results={"tokens": 10, "flops": 70.0})) == 7.0
