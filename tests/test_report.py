"""The report's numbers and words: verdict, scores, costs, what is missing, and bad run folders."""

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import report_runs
from dusk.errors import DataError, InputError, OutputError
from dusk.report import report
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
from dusk.report.scores import model_type, score_table
from dusk.report.verdict import Outcome, crossing, recovery_of, verdict_of
from dusk.report.wording import bits, count, duration, flops, memory
from report_runs import FakeStage, whole_run, without, write_run, write_scores

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(stages: list[FakeStage], *, scores: bool = True, **facts: object) -> Path:
        folder = write_run(tmp_path / "run", stages, **facts)
        if scores:
            write_scores(folder / "scores")
        return folder

    return make


def page(folder: Path) -> str:
    return report(folder).read_text(encoding="utf-8")


def sentence(folder: Path) -> str:
    found = re.search(r'<p class="lede">(.*?)</p>', page(folder), re.DOTALL)
    assert found
    return html.unescape(found[1]).replace("\u00a0", " ")


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


class Cells(HTMLParser):
    """The rows of the table of scores, as text and as classes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.classes: list[list[str]] = []
        self.inside = False
        self.feed(text)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self.inside = given.get("class") == "scores"
        if self.inside and tag == "tr":
            self.rows.append([])
            self.classes.append([])
        if self.inside and tag in ("td", "th"):
            self.rows[-1].append("")
            self.classes[-1].append(given.get("class") or "")

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


class TestScores:
    def test_columns_in_the_papers_order(self, write: Write) -> None:
        head = Cells(page(write(whole_run()))).rows[0]
        assert [text.split(" ")[0] for text in head] == [
            "Model",
            "Size",
            "Type",
            "Mean",
            "Held-out",
            "Choice",
            "Sums",
        ]

    def test_values_errors_best_and_noise(self, write: Write) -> None:
        cells = Cells(page(write(whole_run())))
        rows = {
            row[0]: (row, classes) for row, classes in zip(cells.rows[1:], cells.classes[1:], strict=True)
        }
        merged, classes = rows["merge_average"]
        # 43.2 of 80 and 12 of 20 items: 55.0 (44 of 80) and 60.0; the mean of both is 57.5
        assert merged[1:4] == ["724k", "Alignment-tuned", "57.5 ± 6.3"]
        assert merged[5:] == ["55.0 ± 5.6", "60.0 ± 11.2"]
        assert "best" in classes[3]
        assert "best" in classes[5]
        assert "noise" not in classes[5]
        row, classes = rows["base_same_tokens"]
        assert row[5].startswith("≈36.2")
        assert "noise" in classes[5]
        assert "best" not in classes[5]
        assert rows["recovered"][0][4].startswith("2.30")
        assert rows["scaled"][0][2] == "Scaled, untrained"
        assert rows["decayed reference"][0][2] == "Pretrained"

    def test_lower_is_better_for_bits(self, write: Write) -> None:
        run = read_run(write(whole_run()))
        (evaluation,) = read_evaluations(run)
        table = score_table(run, evaluation, run.stage("constant"))
        place = [column.label for column in table.columns].index("Held-out bits/byte")
        best = {row.label for row in table.rows if row.cells[place].best}
        assert best <= {"recovered", "base_same_compute"}
        assert best

    def test_types_follow_the_lineage(self, write: Write) -> None:
        run = read_run(write(whole_run()))
        assert model_type(run, "sft_average") == "Instruction-tuned"
        assert model_type(run, "merge_slerp") == "Alignment-tuned"
        assert model_type(run, "base_same_compute") == "Pretrained"

    def test_without_items_by_standard_errors(self, write: Write) -> None:
        folder = write(whole_run())
        for path in (folder / "scores" / "results.items").iterdir():
            path.unlink()
        text = page(folder)
        assert "judged by standard errors alone" in text
        assert ", unpaired" in text


class TestPage:
    def test_costs(self, write: Write) -> None:
        text = page(write(whole_run()))
        assert ">25k<" in text  # tokens a second
        assert ">504 MiB<" in text  # of the fifth stage, recovered
        assert "took 3 min 32 s" in text

    def test_reproduction(self, write: Write) -> None:
        machine = {
            "processor": "Xeon 3",
            "cores": 2,
            "memory_bytes": 2**33,
            "platform": "Linux-6",
            "python": "3.11.7",
        }
        facts = {
            "command": "dusk run demo.yaml --out run",
            "started": "2025-01-02T03:04:05+00:00",
            "machine": machine,
        }
        text = page(write(whole_run(), **facts))
        for name, value in (("Processor", "Xeon 3"), ("Memory", "8 GiB"), ("Started", facts["started"])):
            assert f"<dt>{name}</dt><dd>{value}</dd>" in text
        assert "dusk run demo.yaml --out run" in text
        assert "8 GiB" in text
        assert "2.13.0" in text
        assert "name: small" in text

    def test_out(self, write: Write, tmp_path: Path) -> None:
        folder = write(whole_run())
        assert report(folder) == folder / "report.html"
        assert report(str(folder), out=tmp_path / "other" / "page.html").is_file()

    def test_the_same_run_gives_the_same_page(self, write: Write) -> None:
        folder = write(whole_run())
        assert page(folder) == page(folder)

    def test_self_contained(self, write: Write) -> None:
        text = page(write(whole_run()))
        assert not re.findall(r"""(?:src|href)\s*=\s*(?!["']?(?:data:|#))""", text)
        assert "http" not in text.replace("http-equiv", "")
        assert "@import" not in text
        assert "url(" not in text

    def test_hostile_names_are_text(self, write: Write) -> None:
        evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
        stages = whole_run()
        stages[4].settings["label"] = evil
        stages[3].settings["label"] = f"scaled {evil}"
        folder = write(stages, name=evil)
        (folder / "recipe.yaml").write_text(f"name: {evil}\n")
        text = page(folder)
        assert evil not in text
        assert "<img" not in text
        assert text.count("<script") == 1
        assert html.escape(evil)[:20] in text

    def test_unfinished_run(self, write: Write) -> None:
        stages = whole_run()
        for stage in stages[5:]:
            stage.status = "waiting"
        stages[5].status = "failed"
        folder = write(stages, scores=False)
        text = page(folder)
        assert "The run is not finished; there is no output of base_same_tokens (failed)" in text
        assert "No model was evaluated, so there is no table of scores." in text

    def test_a_base_that_no_stage_made(self, tmp_path: Path) -> None:
        scaled = FakeStage("scaled", "scale", {"base": "org/model-7B"})
        text = page(write_run(tmp_path / "run", [scaled]))
        assert "model-7B: base" in text
        assert "scaled: scaled from model-7B" in text

    def test_no_stages(self, tmp_path: Path) -> None:
        assert "The run makes no models." in page(write_run(tmp_path / "run", []))


class TestBadRuns:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is not a folder"):
            report(tmp_path / "nothing")

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no run\.json"):
            report(tmp_path)

    @pytest.mark.parametrize("content", ["{", "[]", '{"stages": 3}', '{"stages": [{}]}'])
    def test_damaged_run(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(DataError, match=r"run\.json"):
            report(tmp_path)

    def test_damaged_metrics_name_the_line(self, write: Write) -> None:
        folder = write(whole_run())
        path = folder / "recovered" / "metrics.jsonl"
        path.write_text('{"kind": "train", "step": 1}\nnonsense\n{"kind": "train", "step": 2}\n')
        with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
            report(folder)

    def test_a_last_line_cut_short_is_left_out(self, write: Write) -> None:
        folder = write(whole_run())
        with (folder / "recovered" / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "train", "st')
        assert "after 600k tokens" in sentence(folder)

    def test_numbers_that_are_none(self, write: Write) -> None:
        folder = write(whole_run())
        with (folder / "recovered" / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "train", "step": 41, "tokens": 1600000, "loss": NaN, "lr": Infinity}\n')
        assert "nan" not in page(folder).lower().replace("instruction", "")

    def test_a_folder_that_cannot_be_written(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot be written"):
            report(write(whole_run()), out=tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (count(0), "0"), (count(999), "999"), (count(1234), "1.23k"), (count(999_960), "1M"), (count(None), ""),
        (count(2_080_000), "2.08M"), (count(10.7e9), "10.7B"), (duration(4.24), "4.2 s"), (memory(512), "512 B"),
        (duration(59.6), "1 min 00 s"), (duration(7384), "2 h 03 min"), (memory(3 * 2**29), "1.5 GiB"),
        (bits(-0.0204), "\u22120.020"), (bits(-0.0001), "0.000"), (flops(7.05e12), "7\u00d710\u00b9\u00b2"),
        (flops(0), "0"),
    ],
)  # fmt: skip
def test_wording(words: str, expected: str) -> None:
    assert words == expected
