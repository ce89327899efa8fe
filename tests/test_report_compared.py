"""The report of several runs that are not the seeds of one recipe."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dusk.errors import InputError
from dusk.report import report
from dusk.report.compared import compare_runs, render_compared
from dusk.report.compared.plots import recovery_charts
from dusk.report.compared.runs import run_names
from dusk.report.run_folder import read_run
from dusk.report.scores import score_table
from report_runs import narrow_run, whole_run, write_run, write_scores, write_two


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return write_two(tmp_path)


def test_all_models_stand_in_one_table(two: list[Path]) -> None:
    compared = compare_runs(two)
    (evaluation,) = compared.evaluations
    table = score_table(compared.whole, evaluation, compared.base)
    labels = [row.label for row in table.rows]
    assert len(labels) == len(set(labels)) == 13 + 3 - 1  # the decayed base of both stands once
    assert {"recovered (wide)", "scaled (wide)", "scaled (narrow)", "Narrow (narrow)"} <= set(labels)
    assert table.reference == "decayed (wide)"
    bits = [column.label for column in table.columns].index("Held-out bits/byte")
    best = [row.label for row in table.rows if row.cells[bits].best]
    assert best == ["Narrow (narrow)"]
    sizes = {row.label: row.size for row in table.rows}
    assert sizes["decayed (wide)"] == "570k"


def test_differences_are_paired_over_the_items_of_both_runs(two: list[Path]) -> None:
    """The difference of two runs' models is that of their items, as if one run had measured both."""
    compared = compare_runs(two)
    (evaluation,) = compared.evaluations
    column = evaluation.held_out
    assert column is not None
    assert evaluation.items is not None
    found = evaluation.difference("wide/recovered", "narrow/recovered", column)
    assert found is not None
    values = [
        np.array(
            [item.values["bits_per_byte"] for item in evaluation.items.model(name).entries["heldout"].items]
        )
        for name in ("wide/recovered", "narrow/recovered")
    ]
    sizes = [200.0 + 10 * (number % 7) for number in range(80)]
    assert found.difference == pytest.approx(np.average(values[1] - values[0], weights=sizes))
    assert found.low < found.difference < found.high


def test_other_measurements_stand_apart(two: list[Path]) -> None:
    results = two[1] / "scores" / "results.json"
    told = json.loads(results.read_text())
    told["versions"]["lm_eval"] = "0.4.8"
    results.write_text(json.dumps(told))
    compared = compare_runs(two)
    assert [len(each.models) for each in compared.evaluations] == [13, 3]
    page = render_compared(compared, two[0].parent / "x.html")
    assert "they cannot be compared" in page
    assert "lm_eval 0.4.8" in page


def test_the_curves_lie_in_one_chart_unless_the_texts_differ(two: list[Path]) -> None:
    tokens, compute = recovery_charts(compare_runs(two).runs)
    assert [line.label for line in tokens.lines] == ["recovered (wide)", "Narrow (narrow)"]
    assert [level.label for level in tokens.levels] == ["base, untouched"]
    assert len(compute.lines) == 2
    run = json.loads((two[1] / "run.json").read_text())
    run["stages"][4]["settings"]["eval_data"] = ["other/heldout2.jsonl"]
    (two[1] / "run.json").write_text(json.dumps(run))
    titles = [chart.title for chart in recovery_charts(compare_runs(two).runs)]
    assert titles == ["By tokens, wide", "By compute, wide", "By tokens, narrow", "By compute, narrow"]


def test_the_page_links_to_the_runs_and_says_what_is_missing(two: list[Path], tmp_path: Path) -> None:
    stages = [*narrow_run()[:4], replace(narrow_run()[4], status="waiting")]
    third = write_run(tmp_path / "third", stages, name="third")
    page = report([*two, third]).read_text()
    assert (tmp_path / "comparison.html").is_file()
    for name in ("wide", "narrow", "third"):
        assert f'href="{name}/report.html"' in page
        assert (tmp_path / name / "report.html").is_file()
    assert "third is not finished: there is no output of Narrow." in page
    assert "No model of third was evaluated" in page
    assert "dusk report wide narrow third --out comparison.html" in page
    assert re.search(r"passed its 8-layer base after 600k tokens", page)


def test_tables_sweeps_and_subjects_of_all_runs(two: list[Path], tmp_path: Path) -> None:
    rows = {name: {"Pages": name == "sft_v3"} for name in ("sft_v3", "sft_v4")}
    table = {"title": "Data", "paper": "table3", "columns": ["Pages"], "rows": rows}
    stages = [*whole_run()]
    for place, weights in ((12, [0.75, 0.25]), (13, [0.25, 0.75])):
        stages[place] = replace(stages[place], settings={**stages[place].settings, "weights": weights})
    third = write_run(tmp_path / "third", stages, name="third", tables={"t": table})
    write_scores(third / "scores")
    compared = compare_runs([*two, third])
    page = render_compared(compared, tmp_path / "x.html")
    assert "Of the run third." in page
    assert "Table 3 of SOLAR 10.7B" in page
    assert "linear: candidate_1 (third) to candidate_2 (third)" in page


def test_names_of_runs_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place / "out", whole_run()) for place in ("a", "b")]
    assert run_names([read_run(folder) for folder in folders]) == ["a/out", "b/out"]


def test_bad_input(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compared with itself"):
        report([two[0], two[1], two[0]], out=tmp_path / "x.html")
    with pytest.raises(InputError, match="is not a folder"):
        report([two[0], tmp_path / "absent"], out=tmp_path / "x.html")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no run\.json"):
        report([two[0], tmp_path / "empty"])
    assert not (tmp_path / "x.html").exists()
