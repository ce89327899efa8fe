"""The report's table of scores: values, errors, the best, and what is noise."""

from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dusk.report.evaluations import read_evaluations
from dusk.report.run_folder import read_run
from dusk.report.scores import model_type, score_table
from report_runs import page, whole_run, write_scored_run

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(write_scored_run, tmp_path / "run")


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
