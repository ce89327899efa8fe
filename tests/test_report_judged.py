"""The grades of a judge on the report's page, from runs with known grades."""

import json
from pathlib import Path

import pytest

from dusk.errors import DataError
from dusk.report import report
from dusk.report.judged import Judged, judged_tables
from dusk.report.run_folder import read_run
from report_runs import judge_stage, whole_run, without, write_grades, write_run, write_scores, write_two


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = write_run(tmp_path / "run", [*without(whole_run(), "scores"), judge_stage()])
    write_grades(run / "judged")
    return run


def of(folder: Path) -> Judged:
    (found,) = judged_tables(read_run(folder))
    return found


def test_a_row_for_each_model_and_number_of_shots(folder: Path) -> None:
    """By hand: candidate_2 without a shot has 6, 8 and 6; the fourth answer has no grade."""
    table = of(folder)
    assert table.columns == ("Overall", "Turn 1", "Turn 2", "mathematics", "<b>writing</b>")
    assert (table.judge, table.scale) == ("the-judge", "1 to 10")
    assert [(row.label, row.shots, row.size) for row in table.rows] == [
        ("candidate_1", 0, "724k"),
        ("candidate_2", 0, "724k"),
        ("candidate_1", 1, "724k"),
        ("candidate_2", 1, "724k"),
    ]
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        ["5.00", "3.50", "6.50", "5.00", "5.00"],
        ["6.67", "6.00", "8.00", "7.00", "6.00"],
        ["8.00", "7.50", "8.50", "8.00", "8.00"],
        ["8.00", "7.50", "8.50", "8.00", "8.00"],
    ]
    assert [cell.error for cell in table.rows[0].cells] == ["0.91", "0.50", "0.50", "1.00", "2.00"]
    assert table.rows[1].cells[4].error == ""  # of one grade there is no error
    assert table.notes == ("1 of 16 answers have no grade: the judge stayed off the scale of 1 to 10.",)


def test_the_best_is_that_of_as_many_shots(folder: Path) -> None:
    """And where all are alike there is none, though more shots give higher grades."""
    best = [[cell.best for cell in row.cells] for row in of(folder).rows]
    assert best == [[False] * 5, [True] * 5, [False] * 5, [False] * 5]


def test_differences_are_taken_from_the_first_model_with_as_many_shots(folder: Path) -> None:
    table = of(folder)
    assert table.reference == "candidate_1"
    assert [row.reference for row in table.rows] == [True, False, True, False]
    assert [[cell.noise for cell in row.cells] for row in table.rows] == [
        [None] * 5,
        [False, False, False, False, None],  # no question of writing has both grades of both
        [None] * 5,
        [True] * 5,
    ]
    hints = [cell.hint.partition(" from ")[0] for cell in table.rows[1].cells]
    # the first turn by hand: (6 - 4 + 6 - 3) / 2; the second has grades of one question, as has overall
    assert hints == ["+2.00", "+2.50", "+2.00", "+2.00", ""]
    expected = "+2.50 from the reference with as many shots, 95 % interval +2.00 to +3.00"
    assert table.rows[1].cells[1].hint == expected


def test_the_page_has_them_and_lacks_no_scores(folder: Path) -> None:
    page = report(folder).read_text()
    assert "Grades from 1 to 10 by the-judge" in page
    assert "&lt;b&gt;writing&lt;/b&gt;" in page
    assert "1 of 16 answers have no grade" in page
    assert "No model was evaluated" not in page
    write_grades(folder / "judged").unlink()
    assert "No model was evaluated" in report(folder).read_text()


def test_runs_that_are_compared_keep_their_grades(tmp_path: Path) -> None:
    third = write_run(tmp_path / "third", [*whole_run(), judge_stage()], name="third")
    write_scores(third / "scores")
    write_grades(third / "judged")
    page = report([*write_two(tmp_path), third]).read_text()
    assert 'Judged <span class="unit">of the run third</span>' in page
    assert page.count("Grades from 1 to 10 by the-judge") == 1


def test_what_is_not_there_is_left_out(folder: Path) -> None:
    """An answer without any grade, a run without differences, other files of the stage."""
    path = folder / "judged" / "grades.json"
    told = json.loads(path.read_text())
    told["scores"][0]["overall"] = None
    told["scores"][2]["categories"].pop("mathematics")
    del told["differences"], told["notes"]
    path.write_text(json.dumps(told))
    (folder / "judged" / "other.json").write_text("{}")
    first, second, *_ = of(folder).rows
    assert [cell.text for cell in first.cells] == ["", "3.50", "6.50", "5.00", "5.00"]
    assert [cell.text for cell in second.cells] == ["6.67", "6.00", "8.00", "", "6.00"]
    assert of(folder).reference == ""
    assert report(folder).is_file()
    path.write_text("{")
    with pytest.raises(DataError, match=r"grades\.json cannot be read"):
        report(folder)
