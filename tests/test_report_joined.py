"""Evaluations of one measure by several stages of a run: one table, as if one stage had made them all."""

import json
from pathlib import Path

from dusk.report.arms import find_arms
from dusk.report.evaluations import read_evaluations
from dusk.report.run_folder import read_run
from dusk.report.verdict import verdict_of
from report_runs import SCORES, FakeStage, whole_run, write_run, write_scores

CONTROLS = ("base_same_tokens", "base_same_compute")
CHAIN = tuple(name for name in SCORES if name not in CONTROLS)


def _apart(folder: Path) -> Path:
    """The run with the scores of its controls in a stage of their own."""
    stages = [stage for stage in whole_run() if stage.name != "scores"]
    for name, models in (("scores", CHAIN), ("scores_controls", CONTROLS)):
        settings = {"models": list(models)}
        stages.append(FakeStage(name, "evaluate", settings, models, layers=None, parameters=None))
    run = write_run(folder, stages)
    write_scores(run / "scores", {name: SCORES[name] for name in CHAIN})
    write_scores(run / "scores_controls", {name: SCORES[name] for name in CONTROLS})
    return run


def test_two_stages_make_the_table_and_the_verdict_of_one(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole", whole_run())
    write_scores(whole / "scores")
    runs = [read_run(whole), read_run(_apart(tmp_path / "apart"))]
    (one,), (joined,) = map(read_evaluations, runs)
    cells = {model.name: model.cells for model in one.models}
    assert {model.name: model.cells for model in joined.models} == cells
    order = [stage.name for stage in runs[1].stages]
    assert [model.name for model in joined.models] == sorted(cells, key=order.index)
    gains = [
        [
            (gain.value, gain.low, gain.high)
            for gain in verdict_of(find_arms(run), read_evaluations(run)).gains
        ]
        for run in runs
    ]
    assert gains[0] == gains[1]
    assert len(gains[0]) == len(CONTROLS)


def test_what_was_measured_otherwise_stays_apart(tmp_path: Path) -> None:
    run = _apart(tmp_path / "run")
    results = run / "scores_controls" / "results.json"
    told = json.loads(results.read_text())
    told["settings"]["fewshot_seed"] = 1
    results.write_text(json.dumps(told))
    found = read_evaluations(read_run(run))
    assert [len(evaluation.models) for evaluation in found] == [len(CHAIN), len(CONTROLS)]
