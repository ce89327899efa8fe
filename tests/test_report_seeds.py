"""Several seeds pooled: the statistics, the sentence, the table, the curves, the numbers in summary.json."""

import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dusk.errors import InputError
from dusk.report import report
from dusk.report.arms import CurvePoint
from dusk.report.seeds import read_seeds, seed_folders
from dusk.report.seeds.plots import mean_curve, recovery_charts
from dusk.report.seeds.student import central_probability, estimate, t_quantile
from dusk.report.seeds.table import pooled_scores, seeds_table
from report_runs import seed_stages, without, write_run, write_seeds

# t for 95 % and 99 % in two tails: Fisher and Yates, Statistical Tables, table III
TABLE = {
    1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 4: (2.776, 4.604), 5: (2.571, 4.032),
    9: (2.262, 3.250), 10: (2.228, 3.169), 30: (2.042, 2.750), 120: (1.980, 2.617),
}  # fmt: skip


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_of_students_t(freedom: int) -> None:
    assert round(t_quantile(freedom), 3) == TABLE[freedom][0]
    assert round(t_quantile(freedom, 0.99), 3) == TABLE[freedom][1]


def test_probabilities_of_students_t() -> None:
    assert central_probability(1.0, 1) == pytest.approx(0.5)  # Cauchy: its quartile is 1
    assert central_probability(1.0, 2) == pytest.approx(1 / math.sqrt(3))  # t / sqrt(t² + 2)
    assert central_probability(2.0, 10_001) == pytest.approx(math.erf(2 / math.sqrt(2)), abs=1e-4)
    with pytest.raises(ValueError, match="0 degrees"):
        t_quantile(0)


def test_an_estimate_of_five_values() -> None:
    found = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3
    assert found.deviation == pytest.approx(math.sqrt(2.5))
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert found.holds_zero is False
    assert estimate([-1.0, 1.0]).holds_zero is True


@pytest.mark.parametrize(
    ("differences", "told"),
    [([0.1, 0.2, 0.15], False), ([-0.1, 0.1], True), ([0.1, 0.1], None), ([0.0, 0.0], True), ([0.1], None)],
)
def test_what_differences_say(differences: list[float], told: bool | None) -> None:
    assert estimate(differences).no_difference is told


def test_one_value_has_no_interval_and_none_is_refused() -> None:
    found = estimate([4.0])
    assert (found.mean, found.deviation, found.low, found.high, found.holds_zero) == (
        4,
        None,
        None,
        None,
        None,
    )
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_seeds(tmp_path_factory.mktemp("seeds") / "out")
    assert report(folder) == folder / "report.html"
    return folder


def numbers(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def sentence(folder: Path) -> str:
    report(folder)
    found = re.search(r'<p class="lede">(.*?)</p>', (folder / "report.html").read_text(), re.DOTALL)
    assert found
    assert html.unescape(found[1]).replace("\u00a0", " ") == numbers(folder)["sentence"]
    return str(numbers(folder)["sentence"])


class TestSentence:
    def test_means_with_t_intervals(self, whole: Path) -> None:
        # 650k, 600k, 550k: s = 50k, t(2) = 4.303, half = 124.2k; gains 0.015, 0.020, 0.025 in the same way
        assert sentence(whole) == (
            "Over 3 seeds the 12-layer scaled model passed its 8-layer base after 600k tokens on average "
            "(550k to 650k; 95 % interval 476k to 724k); against the base given the same tokens it is better "
            "by 0.020 bits per byte (95 % interval 0.008 to 0.032); against the base given the same compute "
            "there is no difference within the noise (0.000 bits per byte; 95 % interval −0.012 to 0.012)."
        )

    def test_worse_is_said(self, tmp_path: Path) -> None:
        told = sentence(write_seeds(tmp_path / "out", (0.051, 0.05, 0.049)))
        assert "the same tokens it is worse by 0.030 bits per byte (95 % interval 0.028 to 0.032)" in told

    def test_seeds_that_do_not_agree(self, tmp_path: Path) -> None:
        told = sentence(write_seeds(tmp_path / "out", (0.0, 0.0, 0.2)))
        assert told.startswith(
            "Of 3 seeds the 12-layer scaled model passed its 8-layer base after 600k tokens on average (600k "
            "to 600k; 95 % interval 600k to 600k) in 2 and has not recovered within 1.6M tokens in 1; "
        )
        assert numbers(tmp_path / "out")["outcomes"]["2"] == "not recovered"
        page = (tmp_path / "out" / "report.html").read_text()
        assert '<dt>Recovered</dt><dd class="figure">2 of 3 seeds</dd>' in page
        assert "after 600k tokens on average (600k to 600k)" in page
        assert numbers(tmp_path / "out")["recovered_after_tokens"]["n"] == 2

    def test_a_recovery_in_the_decay_names_its_seeds(self, tmp_path: Path) -> None:
        folder = write_seeds(tmp_path / "out", (0.0, 0.06, 0.0))  # passes 2.4 at 1.2M, where the decay begins
        report(folder)
        text = (folder / "report.html").read_text()
        assert numbers(folder)["recovered_after_tokens"]["by_seed"]["1"] == pytest.approx(1_200_000)
        assert "it passed its base while" not in text
        later = write_seeds(tmp_path / "later", (0.0, 0.07, 0.0))
        report(later)
        assert "In seed 1 it passed its base while" in (later / "report.html").read_text()

    def test_no_seed_recovers(self, tmp_path: Path) -> None:
        folder = write_seeds(tmp_path / "out", (0.2, 0.21))
        assert "Over 2 seeds the 12-layer scaled model has not recovered within 1.6M tokens;" in sentence(
            folder
        )
        assert numbers(folder)["recovered_after_tokens"] is None

    def test_one_seed_has_no_interval(self, tmp_path: Path) -> None:
        told = sentence(write_seeds(tmp_path / "out", (0.0,)))
        assert told.startswith(
            "Over one seed the 12-layer scaled model passed its 8-layer base after 600k tokens; "
        )
        assert "it measures 0.020 bits per byte better, with no interval to say whether that is noise" in told


class TestNumbers:
    def test_by_seed_and_over_all(self, whole: Path) -> None:
        told = numbers(whole)
        assert told["seeds"] == [0, 1, 2]
        tokens = told["recovered_after_tokens"]
        assert tokens["by_seed"] == pytest.approx({"0": 650_000, "1": 600_000, "2": 550_000})
        assert tokens["high"] - tokens["mean"] == pytest.approx(4.302653 * 50_000 / math.sqrt(3))
        gain = told["bits_per_byte_saved"]["base_same_tokens"]
        assert gain["by_seed"] == pytest.approx({"0": 0.015, "1": 0.02, "2": 0.025})
        assert (gain["mean"], gain["deviation"], gain["n"]) == (pytest.approx(0.02), pytest.approx(0.005), 3)
        assert (gain["role"], gain["verdict"]) == ("same-tokens", "better")
        assert told["bits_per_byte_saved"]["base_same_compute"]["verdict"] == "no different"
        assert told["final_bits_per_byte"]["recovered"]["mean"] == pytest.approx(2.3)

    def test_scores_are_compared_within_a_seed(self, whole: Path) -> None:
        scores = numbers(whole)["scores"]["scores"]
        assert scores["reference"] == "decayed"
        held_out = scores["models"]["recovered"]["scores"]["Held-out bits/byte"]
        # the decayed base is 0.07 above the recovered model of the middle seed
        assert held_out["from_reference"]["mean"] == pytest.approx(-0.07)
        assert held_out["from_reference"]["deviation"] == pytest.approx(0.005)
        assert held_out["from_reference"]["noise"] is False
        assert scores["models"]["recovered"]["scores"]["Sums"]["from_reference"]["noise"] is True

    def test_costs_of_all_seeds(self, whole: Path) -> None:
        cost = numbers(whole)["cost"]
        # the stages 2 to 7 of report_runs take 4 s and their place; the bases are no cost
        assert cost["seconds"] == 3 * sum(4.0 + place for place in range(2, 8))
        assert cost["trained_tokens"] == 3 * (1_600_000 + 1_600_000 + 2_080_000)
        assert cost["peak_memory_bytes"] == 507 * 2**20

    def test_what_a_seed_took_from_another_is_counted_once(self, tmp_path: Path) -> None:
        folder = write_seeds(tmp_path / "out")
        for seed in (1, 2):
            path = folder / f"seed-{seed}" / "run.json"
            content = json.loads(path.read_text())
            content["stages"][2]["taken_from"] = "seed-0"
            path.write_text(json.dumps(content))
        report(folder)
        assert numbers(folder)["cost"]["seconds"] == 3 * sum(4.0 + place for place in range(2, 8)) - 2 * 6.0
        assert "from seed-0" in (folder / "seed-1" / "report.html").read_text()


class TestPage:
    def test_links_lead_to_the_reports_of_the_seeds(self, whole: Path) -> None:
        links = re.findall(r'href="([^"]+)"', (whole / "report.html").read_text())
        assert links[1:] == [f"seed-{seed}/report.html" for seed in range(3)]
        assert all("<h1>demo-full</h1>" in (whole / link).read_text() for link in links[1:])

    def test_links_are_relative_to_the_file(self, whole: Path, tmp_path: Path) -> None:
        page = report(whole, out=tmp_path / "page.html")
        for link in re.findall(r'href="([^"]+)"', page.read_text())[1:]:
            assert (page.parent / link).resolve().is_file()

    def test_the_table(self, whole: Path) -> None:
        seeds = read_seeds(seed_folders(whole))
        (scores,) = pooled_scores(seeds)
        table = seeds_table(seeds, scores)
        rows = {row.label: row.cells for row in table.rows}
        place = [column.label for column in table.columns].index("Held-out bits/byte")
        cell = rows["recovered"][place]
        assert (cell.text, cell.error, cell.best, cell.noise) == ("2.300", "0.005", True, False)
        assert cell.hint == "−0.070 from the reference, 95 % interval −0.082 to −0.058 over 3 seeds"
        assert rows["decayed"][place].error == ""  # one and the same in every seed
        assert rows["decayed"][place].noise is None
        assert rows["scaled"][place].noise is None  # no seed changes it, so seeds do not tell
        assert rows["scaled"][place].hint == "+0.130 from the reference in every seed"
        assert table.reference == "decayed"

    def test_a_thin_line_a_seed_and_the_mean(self, whole: Path) -> None:
        chart = recovery_charts(read_seeds(seed_folders(whole)))[0]
        assert [line.label for line in chart.lines if line.faint][:3] == [
            "recovered, seed 0",
            "recovered, seed 1",
            "recovered, seed 2",
        ]
        mean = next(line for line in chart.lines if line.label == "recovered")
        assert [dot.y_words for dot in mean.dots] == ["2.500", "2.420", "2.380", "2.340", "2.300"]
        assert [ring.label for ring in chart.rings] == ["mean passes at 600k"]

    def test_nothing_is_ringed_unless_every_seed_recovers(self, tmp_path: Path) -> None:
        folder = write_seeds(
            tmp_path / "out", (0.0, 0.0, 0.11), scores=False
        )  # their mean is 2.34 at the end
        chart = recovery_charts(read_seeds(seed_folders(folder)))[0]
        assert chart.rings == ()

    def test_the_same_seeds_give_the_same_page(self, whole: Path) -> None:
        before = (whole / "report.html").read_bytes(), (whole / "summary.json").read_bytes()
        report(whole)
        assert ((whole / "report.html").read_bytes(), (whole / "summary.json").read_bytes()) == before


def curve(*points: tuple[float, float]) -> list[CurvePoint]:
    return [CurvePoint(tokens, 10 * tokens, value) for tokens, value in points]


def test_the_mean_of_curves_ends_where_they_part() -> None:
    first = curve((0, 3.0), (100, 2.0), (200, 1.0))
    second = curve((0, 3.2), (101, 2.2), (230, 1.0))
    assert mean_curve([first, second]) == (
        CurvePoint(0, 0, pytest.approx(3.1)),
        CurvePoint(100.5, 1005, pytest.approx(2.1)),
    )
    assert mean_curve([]) == ()


class TestWhatIsMissing:
    def missing(self, folder: Path) -> list[str]:
        report(folder)
        lines: list[str] = numbers(folder)["missing"]
        text = html.unescape((folder / "report.html").read_text())
        assert all(line in text for line in lines)
        return lines

    def test_nothing(self, whole: Path) -> None:
        assert self.missing(whole) == []

    def test_a_seed_between_two_others_and_one_that_has_not_begun(self, tmp_path: Path) -> None:
        folder = write_seeds(tmp_path / "out")
        (folder / "seed-1").rename(folder / "elsewhere")
        (folder / "seed-3").mkdir()
        assert self.missing(folder) == [
            "seed-3 holds no run.json: nothing of it is here.",
            "There is no seed-1, though there is a later one.",
        ]
        assert numbers(folder)["seeds"] == [0, 2]

    def test_a_seed_whose_training_is_not_done_counts_nowhere(self, tmp_path: Path) -> None:
        folder = write_seeds(tmp_path / "out", (0.005, -0.005))
        stages = seed_stages(0.0)
        stages[4] = replace(stages[4], status="running")
        stages[7] = replace(stages[7], status="waiting")
        write_run(folder / "seed-2", stages, name="demo-full", seed=2)
        assert self.missing(folder) == [
            "The run of seed 2 is not finished; there is no output of recovered (running) and scores (waiting).",
            "No model of seed 2 was evaluated; the table of scores is without it.",
        ]
        told = numbers(folder)
        assert " in 2 and in 1 it is not known; against" in told["sentence"]
        assert told["bits_per_byte_saved"]["base_same_tokens"]["n"] == 2
        assert told["scores"]["scores"]["models"]["recovered"]["scores"]["Choice"]["n"] == 2

    def test_no_evaluation_at_all(self, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        for seed in range(2):
            stages = without(seed_stages(0.01 * seed), "scores")
            write_run(folder / f"seed-{seed}", stages, name="demo-full", seed=seed)
        assert self.missing(folder) == ["No model was evaluated, so there is no table of scores."]
        assert numbers(folder)["bits_per_byte_saved"]["base_same_tokens"]["mean"] == pytest.approx(0.015)


class TestBadFolders:
    def test_runs_of_other_settings_are_not_pooled(self, tmp_path: Path) -> None:
        folder = write_seeds(tmp_path / "out", (0.0, 0.001))
        stages = seed_stages(0.0)
        stages[4].settings["tokens"] = 5
        write_run(folder / "seed-2", stages, name="demo-full", seed=2)
        with pytest.raises(InputError) as caught:
            report(folder)
        (told,) = caught.value.problems
        assert told == f"{folder}/seed-2 has other settings than {folder}/seed-0 in 'recovered'"

    def test_a_seed_that_is_there_twice(self, tmp_path: Path) -> None:
        first = write_seeds(tmp_path / "a", (0.0,), scores=False) / "seed-0"
        second = write_seeds(tmp_path / "b", (0.0,), scores=False) / "seed-0"
        with pytest.raises(InputError) as caught:
            read_seeds([first, second])
        assert caught.value.problems == [f"{first} and {second} have the same seed, 0"]

    def test_folders_in_two_places_need_a_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="2 run folders in 2 places"):
            report([tmp_path / "a" / "x", tmp_path / "b" / "y"])

    def test_no_runs(self, tmp_path: Path) -> None:
        (tmp_path / "seed-0").mkdir()
        with pytest.raises(InputError, match="holds a run"):
            report(tmp_path)
        with pytest.raises(InputError):
            report([], out=tmp_path / "x.html")

    def test_a_sequence_of_folders(self, whole: Path, tmp_path: Path) -> None:
        report([whole / "seed-0", str(whole / "seed-2")], out=tmp_path / "two.html")
        assert numbers(tmp_path)["seeds"] == [0, 2]
