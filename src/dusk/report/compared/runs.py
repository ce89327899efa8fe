"""Several runs as one: stages and models keep their run's name in front, so that none stands for another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dusk.errors import InputError
from dusk.evaluate.results import EvalReport, alike
from dusk.report.arms import Arms, find_arms
from dusk.report.evaluations import Evaluation, ModelScores, read_evaluations
from dusk.report.judged import Judged, judged_tables
from dusk.report.run_folder import Run, Stage, read_run
from dusk.report.verdict import Verdict, verdict_of


@dataclass(frozen=True)
class OneRun:
    """A run as it is read, under the name that it has among the others."""

    name: str
    run: Run
    arms: Arms
    evaluations: tuple[Evaluation, ...]
    judged: tuple[Judged, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Compared:
    """The runs; all of their stages as those of one run; and their evaluations, alike ones joined."""

    runs: tuple[OneRun, ...]
    whole: Run
    evaluations: tuple[Evaluation, ...]

    @property
    def base(self) -> Stage | None:
        """The base that the first run grew."""
        first = self.runs[0]
        return self.whole.stage(_key(first, first.arms.base.name)) if first.arms.base else None


def compare_runs(folders: Sequence[Path]) -> Compared:
    """Read runs to be compared.

    Evaluations are joined where suite, tasks, settings and the harness's version are the same: others are other
    measurements. A base that several runs have with one content stands once.

    Raises:
        InputError: a folder holds no run, or two are one.
        DataError: a file of a run is damaged.
    """
    places = [folder.resolve() for folder in folders]
    twice = sorted({str(place) for place in places if places.count(place) > 1})
    if twice:
        raise InputError("A run cannot be compared with itself.", problems=twice, remedy="Give each once.")
    read = [read_run(folder) for folder in folders]
    runs = tuple(_one(run, name) for run, name in zip(read, run_names(read), strict=True))
    stages = [stage for each in runs for stage in _renamed(each)]
    whole = Run(Path(), " and ".join(each.name for each in runs), {}, tuple(stages))
    return Compared(runs, whole, tuple(_joined(runs)))


def run_names(runs: Sequence[Run]) -> list[str]:
    """The names of the recipes; the folders' where two are alike, with as many parents as it takes."""
    names = [run.name for run in runs]
    parts = [run.folder.resolve().parts for run in runs]
    depth = 1
    while len(set(names)) < len(names) and depth < max(map(len, parts)):
        names = ["/".join(part[-depth:]) for part in parts]
        depth += 1
    return names


def _one(run: Run, name: str) -> OneRun:
    arms, evaluations = find_arms(run), read_evaluations(run)
    return OneRun(name, run, arms, evaluations, judged_tables(run), verdict_of(arms, evaluations))


def _key(run: OneRun, stage: str) -> str:
    return f"{run.name}/{stage}"


def _renamed(each: OneRun) -> list[Stage]:
    """The stages of a run under names and labels that say whose they are."""
    own = {stage.name for stage in each.run.stages}

    def key(name: str) -> str:
        return _key(each, name) if name in own else name

    return [
        replace(
            stage,
            name=key(stage.name),
            label=f"{stage.label} ({each.name})",
            uses=tuple(map(key, stage.uses)),
            parents=tuple(map(key, stage.parents)),
        )
        for stage in each.run.stages
    ]


def _joined(runs: Sequence[OneRun]) -> list[Evaluation]:
    whose = {id(evaluation): each for each in runs for evaluation in each.evaluations}
    groups = alike(evaluation for each in runs for evaluation in each.evaluations)
    return [_one_of([(whose[id(evaluation)], evaluation) for evaluation in group]) for group in groups]


def _one_of(group: Sequence[tuple[OneRun, Evaluation]]) -> Evaluation:
    """The evaluations of a group as one, each model under its run's name."""
    first = group[0][1]
    models: list[ModelScores] = []
    seen: set[str] = set()
    for run, evaluation in group:
        digests = [_base_digest(run, evaluation, model) for model in evaluation.models]
        models += [
            replace(model, name=_key(run, model.name), called=_key(run, model.called))
            for model, digest in zip(evaluation.models, digests, strict=True)
            if digest is None or digest not in seen
        ]
        seen |= {digest for digest in digests if digest is not None}
    return replace(first, models=tuple(models), items=_items(group), compared={})


def _base_digest(run: OneRun, evaluation: Evaluation, model: ModelScores) -> str | None:
    """The content of a base; None for what the run has made itself, and where it is not known."""
    stage = run.run.stage(model.name)
    if stage is None or stage.kind != "base" or evaluation.items is None:
        return None
    return evaluation.items.model(model.called).digest


def _items(group: Sequence[tuple[OneRun, Evaluation]]) -> EvalReport | None:
    reports: Mapping[str, EvalReport] = {
        run.name: evaluation.items for run, evaluation in group if evaluation.items is not None
    }
    if len(reports) < len(group):
        return None
    models = [
        replace(model, name=f"{name}/{model.name}")
        for name, report in reports.items()
        for model in report.models
    ]
    return replace(next(iter(reports.values())), models=models)
