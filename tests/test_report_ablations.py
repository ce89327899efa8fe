"""Ablation tables, the sweep over merge weights, and groups task by task, from runs with known numbers."""

import json
from pathlib import Path

import pytest

from dusk.evaluate.items import EntryItems, Item, ItemStore
from dusk.evaluate.results import EvalReport, ModelScores
from dusk.evaluate.suites import Entry, Suite
from dusk.recipe.recipe import Table
from dusk.report import report
from dusk.report.ablations import ablations_of, paper_scores
from dusk.report.breakdown import breakdowns_of
from dusk.report.evaluations import read_evaluations
from dusk.report.run_folder import read_run
from dusk.report.sweeps import sweeps_of, weight_of_second
from report_runs import FakeStage, whole_run, write_run, write_scores

ROWS = {"sft_v3": {"Tasks": True, "Base": "x"}, "sft_v4": {"Tasks": False}, "docs": {}}
TABLE = {"title": "Which data", "paper": "table3", "columns": ["Tasks", "Base"], "rows": ROWS}


def run_with(tmp_path: Path, tables, stages=None):
    stages = stages or whole_run()
    for stage in stages:
        if stage.name.startswith("sft_v"):
            stage.settings["label"] = f"SFT {stage.name[4:]}"
    folder = write_run(tmp_path / "run", stages, tables=tables)
    return folder, read_run(folder)


def test_the_papers_figures_average_to_its_means():
    """Every row but one of the paper's prints the mean of its six tasks (Cand. 2: 73.29, printed 73.28)."""
    for number in range(3, 8):
        for row, scores in paper_scores(f"table{number}").items():
            mean, *tasks = scores.values()
            assert sum(tasks) / 6 == pytest.approx(mean, abs=0.0051 if row != "Cand. 2" else 0.013)
    assert paper_scores("table9") == {} == paper_scores("columns")


def test_a_recipe_may_ask_for_the_tables_that_there_are():
    allowed = Table.model_fields["paper"].annotation
    assert all(paper_scores(f"table{number}") and f"table{number}" in str(allowed) for number in range(3, 8))


def test_a_table_has_choices_scores_and_the_best(tmp_path):
    folder, run = run_with(tmp_path, {"mine": TABLE})
    write_scores(folder / "scores")
    (table,) = ablations_of(run, read_evaluations(run))
    assert [row.label for row in table.rows] == ["SFT v3", "SFT v4", "docs"]
    assert [row.choices for row in table.rows] == [(True, "x"), (False, None), (None, None)]
    sums = [column.label for column in table.columns].index("Sums")
    assert [(row.cells[sums].text, row.cells[sums].best) for row in table.rows] == [
        ("30.0", False), ("40.0", True), ("", False),
    ]  # fmt: skip
    bits = [column.label for column in table.columns].index("Held-out bits/byte")
    assert [row.cells[bits].best for row in table.rows] == [True, False, False]  # fewer bits are better
    assert table.rows[0].cells[sums].error  # the standard error
    # none of the paper's tasks is in this suite: its mean has a column of its own
    assert (table.paper_column, [row.paper for row in table.rows]) == ("H6", ["70.03", "70.88", ""])


def test_differences_are_from_the_first_row_over_the_same_items(tmp_path):
    """Of 80 choices the rows differ in one, of 20 sums in two; of the bits each document has its own noise."""
    folder, run = run_with(tmp_path, {"mine": TABLE})
    scores = {"sft_v3": (0.0, 0.3, 0.3), "sft_v4": (0.2, 0.31, 0.9)}
    write_scores(folder / "scores", scores)
    (evaluation,) = read_evaluations(run)
    (table,) = ablations_of(run, (evaluation,))
    assert table.reference == "SFT v3"
    first, second, absent = ([cell.noise for cell in row.cells] for row in table.rows)
    assert (first, second, absent) == ([None] * 4, [False, False, True, False], [None] * 4)
    for column, cell in zip(table.columns, table.rows[1].cells, strict=True):
        paired = evaluation.difference("sft_v3", "sft_v4", column)
        assert (paired.low <= 0 <= paired.high) == cell.noise
    page = report(folder).read_text()
    assert "no difference from SFT v3 within the noise" in page


def test_the_papers_figures_stand_beside_the_same_tasks(tmp_path):
    folder, run = run_with(tmp_path, {"mine": TABLE})
    _h6(folder / "scores", {"sft_v3": 0.5, "sft_v4": 0.6})
    (table,) = ablations_of(run, read_evaluations(run))
    assert [column.label for column in table.columns] == ["H6", "MMLU"]
    assert [[cell.paper for cell in row.cells] for row in table.rows] == [
        ["70.03", "65.31"], ["70.88", "65.87"], ["", ""],
    ]  # fmt: skip
    assert table.paper_column == ""
    page = report(folder).read_text()
    assert "Table 3 of SOLAR 10.7B" in page
    assert '<span class="spoken">paper: </span>65.31' in page


def test_subjects_stand_one_by_one(tmp_path):
    folder, run = run_with(tmp_path, {})
    _h6(folder / "scores", {"sft_v3": 0.5, "sft_v4": 0.6})
    (evaluation,) = read_evaluations(run)
    (breakdown,) = breakdowns_of(run, evaluation, None)
    assert (breakdown.label, breakdown.models, breakdown.reference) == (
        "MMLU",
        ("SFT v3", "SFT v4"),
        "SFT v3",
    )
    assert [(row.label, row.items) for row in breakdown.rows] == [("abstract algebra", 10), ("virology", 10)]
    for row in breakdown.rows:
        first, second = row.cells
        assert (first.text, first.best, first.noise) == ("50.0", False, None)
        assert (second.text, second.best, second.noise) == ("60.0", True, True)  # one item of ten
        assert second.hint.startswith("+10.0 from the reference, 95 % interval 0.0 to +30.0")
    assert breakdown.by_chance == pytest.approx(0.1)
    page = report(folder).read_text()
    assert "MMLU, task by task (2)" in page
    assert "no difference from SFT v3 within the noise (95 %, the same items)." in page


def test_a_subject_that_differs_is_not_grey(tmp_path):
    folder, run = run_with(tmp_path, {})
    _h6(folder / "scores", {"sft_v3": 0.1, "sft_v4": 0.9})
    (evaluation,) = read_evaluations(run)
    (breakdown,) = breakdowns_of(run, evaluation, None)
    assert [[cell.noise for cell in row.cells] for row in breakdown.rows] == [[None, False]] * 2


def test_a_table_of_what_was_not_evaluated_is_left_out(tmp_path):
    folder, run = run_with(tmp_path, {"none": {"rows": {"docs": {}}}})
    write_scores(folder / "scores")
    assert ablations_of(run, read_evaluations(run)) == ()


def test_a_sweep_goes_from_the_one_model_to_the_other(tmp_path):
    pair = {"models": ["candidate_1", "candidate_2"]}
    stages = whole_run()
    both = ("candidate_1", "candidate_2")
    for name, weights in (("merge_46", [0.4, 0.6]), ("merge_31", [3, 1])):
        stages.append(FakeStage(name, "merge", {**pair, "weights": weights}, both))
    scores = {
        "candidate_1": (0.03, 0.50, 0.5), "candidate_2": (0.03, 0.6, 0.5), "merge_average": (0.02, 0.65, 0.5),
        "merge_46": (0.02, 0.7, 0.5), "merge_31": (0.02, 0.55, 0.5), "merge_slerp": (0.0, 0.1, 0.0),
    }  # fmt: skip
    stages[13].settings["method"] = "slerp"
    folder, run = run_with(tmp_path, {}, stages)
    write_scores(folder / "scores", scores)
    charts = {chart.title: chart for chart in sweeps_of(run, read_evaluations(run))}
    assert list(charts) == ["Mean by weight", "Held-out bits/byte by weight"]
    lines = {line.label.split(":")[0]: line for line in charts["Mean by weight"].lines}
    told = [(dot.x_words, dot.y_words) for dot in lines["linear"].dots]
    assert told == [("0", "50.0"), ("0.25", "52.5"), ("0.5", "57.5"), ("0.6", "60.0"), ("1", "55.0")]
    assert [dot.x_words for dot in lines["slerp"].dots] == ["0", "0.5", "1"]
    assert "Merge weights" in report(folder).read_text()


@pytest.mark.parametrize(
    ("settings", "weight"),
    [
        ({}, 0.5),
        ({"weights": [1, 3]}, 0.75),
        ({"method": "slerp", "t": 0.2}, 0.2),
        ({"method": "slerp"}, 0.5),
        ({"method": "slerp", "t": [0, 1]}, None),
        ({"weights": [[0, 1], 1]}, None),
        ({"weights": [1, -1]}, None),
        ({"method": "task-arithmetic", "weights": [1, 1]}, None),
    ],
)
def test_weights_of_merges(tmp_path, settings, weight):
    stage = FakeStage("m", "merge", {"models": ["a", "b"], **settings}, ("a", "b"))
    run = read_run(write_run(tmp_path / "run", [stage]))
    found = run.stage("m")
    assert found is not None
    assert weight_of_second(found) == weight


def _h6(folder: Path, shares: dict[str, float]) -> None:
    """A results file with a group of two subjects, each with ten items."""
    suite = Suite("h6", (Entry("mmlu", {"MMLU": "acc"}),), mean={"H6": ["MMLU"]})
    models = []
    for name, share in shares.items():
        items = [
            Item(f"mmlu_{subject}", number, f"{number:016x}", {"acc": float(number < 10 * share)})
            for subject in ("abstract_algebra", "virology")
            for number in range(10)
        ]
        store = ItemStore(folder / "results.items" / f"{name}.jsonl.gz")
        store.put(EntryItems("mmlu", "f", {"acc": True}, {}, items))
        models.append(ModelScores(name, str(folder / name), "digest", dict(store.entries), store.path))
    EvalReport(suite, {"fewshot_seed": 42}, {"lm_eval": "0.4.13"}, models).write(folder / "results.json")
    assert json.loads((folder / "results.json").read_text())["suite"] == "h6"
