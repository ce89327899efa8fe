"""The table of scores over seeds: each cell a mean with its standard deviation over the seeds.

Differences from the reference are taken within each seed; one whose t-interval holds zero is noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dusk.report.evaluations import Column, Evaluation, ModelScores
from dusk.report.scores import Cell, Row, Table, label_of, plus, reference_of, shown, shown_type
from dusk.report.seeds.runs import SeedRun, Seeds
from dusk.report.seeds.student import Estimate, estimate
from dusk.report.wording import count


@dataclass(frozen=True)
class Score:
    """A model's score in one column over the seeds, and its difference from the reference's."""

    by_seed: dict[int, float]
    over: Estimate
    difference: Estimate | None = None


@dataclass(frozen=True)
class PooledScores:
    """One evaluation over the seeds: scores by model and column, in the order of the recipe."""

    stage: str
    columns: tuple[Column, ...]
    models: tuple[ModelScores, ...]
    scores: dict[str, dict[str, Score]]
    reference: str | None


def pooled_scores(seeds: Seeds) -> list[PooledScores]:
    """Every evaluation that a seed has, over all the seeds that have it."""
    shapes: dict[str, tuple[SeedRun, Evaluation]] = {}
    for each in seeds.runs:
        for evaluation in each.evaluations:
            shapes.setdefault(evaluation.stage, (each, evaluation))
    return [_pooled(seeds, each, evaluation) for each, evaluation in shapes.values()]


def _pooled(seeds: Seeds, shape: SeedRun, evaluation: Evaluation) -> PooledScores:
    found = reference_of(shape.run, evaluation, shape.arms.base)
    reference = found.name if found else None
    columns = evaluation.columns
    scores = {
        model.name: {
            column.label: score
            for column in columns
            if (score := _score(seeds, evaluation.stage, model.name, reference, column)) is not None
        }
        for model in evaluation.models
    }
    return PooledScores(evaluation.stage, columns, evaluation.models, scores, reference)


def _score(seeds: Seeds, stage: str, model: str, reference: str | None, column: Column) -> Score | None:
    values = _by_seed(seeds, stage, model, column)
    if not values:
        return None
    theirs = _by_seed(seeds, stage, reference, column) if model != reference else {}
    paired = [value - theirs[seed] for seed, value in values.items() if seed in theirs]
    return Score(values, estimate(list(values.values())), estimate(paired) if paired else None)


def _by_seed(seeds: Seeds, stage: str, model: str | None, column: Column) -> dict[int, float]:
    found: dict[int, float] = {}
    for each in seeds.runs:
        for evaluation in each.evaluations:
            scored = evaluation.model(model) if evaluation.stage == stage else None
            if scored and column.label in scored.cells:
                found[each.seed] = scored.cells[column.label].value
    return found


def seeds_table(seeds: Seeds, pooled: PooledScores) -> Table:
    """The table as the page shows it."""
    run = seeds.first.run
    (evaluation,) = (
        found
        for each in seeds.runs[: _first_with(seeds, pooled.stage) + 1]
        for found in each.evaluations
        if found.stage == pooled.stage
    )
    best = {column.label: _best(pooled, column) for column in pooled.columns}
    return Table(
        suite=evaluation.suite,
        software=", ".join(f"{name} {version}" for name, version in evaluation.versions.items()),
        columns=pooled.columns,
        rows=tuple(_row(seeds, pooled, model.name, best) for model in pooled.models),
        reference=label_of(run, pooled.reference) if pooled.reference else "",
        notes=tuple(_notes(seeds, pooled)),
    )


def _first_with(seeds: Seeds, stage: str) -> int:
    return next(
        place for place, each in enumerate(seeds.runs) if any(one.stage == stage for one in each.evaluations)
    )


def _best(pooled: PooledScores, column: Column) -> str:
    values = [cells[column.label].over.mean for cells in pooled.scores.values() if column.label in cells]
    if not values:
        return ""
    return shown(max(values) if column.higher_is_better else min(values), column)


def _row(seeds: Seeds, pooled: PooledScores, name: str, best: dict[str, str]) -> Row:
    run = seeds.first.run
    stage = run.stage(name)
    parameters = stage.parameters if stage else None
    return Row(
        label=label_of(run, name),
        size=count(parameters),
        size_value=parameters or 0,
        type=shown_type(run, stage, name),
        reference=name == pooled.reference,
        cells=tuple(
            _cell(pooled.scores[name].get(column.label), column, best[column.label])
            for column in pooled.columns
        ),
    )


def _cell(score: Score | None, column: Column, best: str) -> Cell:
    if score is None:
        return Cell()
    over, from_reference = score.over, score.difference
    return Cell(
        text=shown(over.mean, column),
        error="" if over.same else shown(over.deviation, column),
        value=over.mean,
        best=shown(over.mean, column) == best,
        noise=from_reference.no_difference if from_reference else None,
        hint=_hint(from_reference, column),
    )


def _hint(found: Estimate | None, column: Column) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    if found.same:
        return f"{plus(found.mean, column)} from the reference in every seed"
    interval = f"95 % interval {plus(found.low, column)} to {plus(found.high, column)}"
    return f"{plus(found.mean, column)} from the reference, {interval} over {len(found.values)} seeds"


def _notes(seeds: Seeds, pooled: PooledScores) -> Sequence[str]:
    every = {len(score.by_seed) for cells in pooled.scores.values() for score in cells.values()}
    if every <= {len(seeds.runs)}:
        return []
    return [f"Some scores are over fewer seeds than the {len(seeds.runs)} that were run."]
