"""The page of several runs beside each other."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dusk.report.ablations import ablations_of
from dusk.report.breakdown import breakdowns_of
from dusk.report.compared.plots import recovery_charts
from dusk.report.compared.runs import Compared, OneRun
from dusk.report.costs import costs_of
from dusk.report.page import rendered
from dusk.report.provenance import provenance_of
from dusk.report.scores import score_table
from dusk.report.sweeps import sweeps_of

OWN_REPORT = "report.html"


@dataclass(frozen=True)
class RunRow:
    """A run: what it says in a sentence, what it took, where its own report lies."""

    name: str
    link: str
    sentence: str
    models: int
    seconds: str
    tokens: str
    memory: str
    command: str


def render_compared(compared: Compared, target: Path) -> str:
    """The whole page as HTML; links are relative to the file `target`."""
    whole, evaluations = compared.whole, compared.evaluations
    return rendered(
        "compared.html.jinja",
        run=whole,
        rows=[_row(each, target) for each in compared.runs],
        missing=_missing(compared),
        tables=[score_table(whole, evaluation, compared.base) for evaluation in evaluations],
        breakdowns=[
            part for evaluation in evaluations for part in breakdowns_of(whole, evaluation, compared.base)
        ],
        ablations=[
            (each.name, ablation)
            for each in compared.runs
            for ablation in ablations_of(each.run, each.evaluations)
        ],
        judged=[(each.name, judged) for each in compared.runs for judged in each.judged],
        sweeps=sweeps_of(whole, evaluations),
        charts=recovery_charts(compared.runs),
        command=_command(compared, target),
    )


def _row(each: OneRun, target: Path) -> RunRow:
    costs = costs_of(each.run)
    return RunRow(
        name=each.name,
        link=quote(os.path.relpath(each.run.folder.absolute() / OWN_REPORT, target.parent)),
        sentence=each.verdict.sentence,
        models=len(each.run.models),
        seconds=costs.seconds,
        tokens=costs.tokens,
        memory=costs.memory,
        command=provenance_of(each.run).command,
    )


def _missing(compared: Compared) -> list[str]:
    lines = []
    for each in compared.runs:
        unfinished = [stage.label for stage in each.run.stages if not stage.done]
        if unfinished:
            lines.append(f"{each.name} is not finished: there is no output of {', '.join(unfinished)}.")
        if not each.judged and not any(evaluation.models for evaluation in each.evaluations):
            lines.append(f"No model of {each.name} was evaluated; the tables are without it.")
    if len(compared.evaluations) > 1:
        lines.append(
            "Scores of other suites, settings or versions of the harness stand in tables of their own: "
            "they cannot be compared."
        )
    return lines


def _command(compared: Compared, target: Path) -> str:
    folders = [os.path.relpath(each.run.folder.absolute(), target.parent) for each in compared.runs]
    return shlex.join(["dusk", "report", *folders, "--out", target.name])
