"""The table of all models and scores, in the papers' order: model, size, type, mean, then the tasks."""

from collections.abc import Mapping
from dataclasses import dataclass

from dusk.evaluate.bootstrap import Difference
from dusk.report.evaluations import Column, Evaluation, ModelScores
from dusk.report.run_folder import Run, Stage
from dusk.report.wording import count, signed

NOISE_ERRORS = 1.96  # standard errors in the half width of a 95 % interval

_TYPES = ("Pretrained", "Instruction-tuned", "Alignment-tuned")
_RANK = {"sft": 1, "align": 2}


@dataclass(frozen=True)
class Cell:
    """One score of one model; `noise` says that it does not differ from the reference's, None if not known."""

    text: str = ""
    error: str = ""
    value: float | None = None
    best: bool = False
    noise: bool | None = None
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """One model."""

    label: str
    size: str
    size_value: int
    type: str
    reference: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The scores of one evaluation."""

    suite: str
    software: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    reference: str
    notes: tuple[str, ...]


def score_table(run: Run, evaluation: Evaluation, base: Stage | None) -> Table:
    """All models of an evaluation; differences are taken from the run's base, or else from the first model."""
    reference = reference_of(run, evaluation, base)
    best = {column.label: _best(evaluation, column) for column in evaluation.columns}
    rows = tuple(_row(run, evaluation, model, reference, best) for model in evaluation.models)
    unpaired = any(cell.hint.endswith("unpaired") for row in rows for cell in row.cells)
    return Table(
        suite=evaluation.suite,
        software=evaluation.software,
        columns=evaluation.columns,
        rows=rows,
        reference=label_of(run, reference.name) if reference else "",
        notes=("Without per-item results some differences are judged by standard errors alone.",)
        if unpaired
        else (),
    )


def model_type(run: Run, name: str) -> str:
    """Pretrained, Instruction-tuned or Alignment-tuned: the furthest that the model or a forebear of it came."""
    return _TYPES[_rank(run, name, frozenset())]


def _rank(run: Run, name: str, seen: frozenset[str]) -> int:
    stage = run.stage(name)
    if stage is None or name in seen:
        return 0
    parents = (_rank(run, parent, seen | {name}) for parent in stage.parents)
    return max((_RANK.get(stage.kind, 0), *parents))


def reference_of(run: Run, evaluation: Evaluation, base: Stage | None) -> ModelScores | None:
    """The model that differences are taken from: `role: reference`, else a base that was not grown."""
    told = [stage.name for stage in run.stages if stage.settings.get("role") == "reference"]
    bases = [stage.name for stage in run.stages if stage.kind == "base"]
    unused = [
        name for name in bases if base is None or name != base.name
    ]  # the decayed form of the one grown
    for name in (*told, *unused, *bases):
        found = evaluation.model(name)
        if found is not None:
            return found
    return evaluation.models[0] if evaluation.models else None


def _best(evaluation: Evaluation, column: Column) -> float | None:
    values = [model.cells[column.label].value for model in evaluation.models if column.label in model.cells]
    if not values:
        return None
    return max(values) if column.higher_is_better else min(values)


def _row(
    run: Run,
    evaluation: Evaluation,
    model: ModelScores,
    reference: ModelScores | None,
    best: Mapping[str, float | None],
) -> Row:
    stage = run.stage(model.name)
    parameters = stage.parameters if stage else None
    return Row(
        label=label_of(run, model.name),
        size=count(parameters),
        size_value=parameters or 0,
        type=shown_type(run, stage, model.name),
        reference=model is reference,
        cells=tuple(
            _cell(evaluation, model, reference, column, best[column.label]) for column in evaluation.columns
        ),
    )


def shown_type(run: Run, stage: Stage | None, name: str) -> str:
    """The type of a model, where an untrained scaled one has its own word."""
    return "Scaled, untrained" if stage is not None and stage.kind == "scale" else model_type(run, name)


def label_of(run: Run, name: str) -> str:
    """What the report calls a model."""
    stage = run.stage(name)
    return stage.label if stage else name


def _cell(
    evaluation: Evaluation,
    model: ModelScores,
    reference: ModelScores | None,
    column: Column,
    best: float | None,
) -> Cell:
    score = model.cells.get(column.label)
    if score is None:
        return Cell()
    noise, hint = None, ""
    if reference is not None and model is not reference:
        noise, hint = against_reference(evaluation, model, reference, column)
    return Cell(
        text=shown(score.value, column),
        error=shown(score.stderr, column) if score.stderr is not None else "",
        value=score.value,
        best=best is not None and shown(score.value, column) == shown(best, column),
        noise=noise,
        hint=hint,
    )


def against_reference(
    evaluation: Evaluation, model: ModelScores, reference: ModelScores, column: Column
) -> tuple[bool | None, str]:
    """Whether a score's difference from the reference's is noise, None if that is not known; and it in words.

    Paired over the items where both have them, else by the two standard errors.
    """
    paired = evaluation.difference(reference.name, model.name, column)
    if paired is not None:
        return paired.low <= 0 <= paired.high, difference_in_words(paired, column)
    score, other = model.cells.get(column.label), reference.cells.get(column.label)
    if score is None or other is None or other.stderr is None or score.stderr is None:
        return None, ""
    difference = score.value - other.value
    half = NOISE_ERRORS * float((score.stderr**2 + other.stderr**2) ** 0.5)
    return abs(difference) <= half, f"{plus(difference, column)} \u00b1 {shown(half, column)}, unpaired"


def difference_in_words(found: Difference, column: Column) -> str:
    """The difference from the reference, with its interval."""
    interval = f"95 % interval {plus(found.low, column)} to {plus(found.high, column)}"
    return f"{plus(found.difference, column)} from the reference, {interval}"


def plus(value: float, column: Column) -> str:
    """A difference with its sign."""
    return f"+{shown(value, column)}" if value > 0 else shown(value, column)


def shown(value: float | None, column: Column) -> str:
    """Percent to one place, bits per byte to three, other scores to two."""
    if value is None:
        return ""
    if column.in_percent:
        return signed(f"{100 * value:.1f}")
    return signed(f"{value:.3f}" if column.is_bits else f"{value:.2f}")
