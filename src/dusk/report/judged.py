"""The grades of `dusk judge` as a table: a row a model and number of shots, a column a turn and a category."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dusk.report.evaluations import Score, score_of
from dusk.report.reading import Json, finite, mapping, read_object
from dusk.report.run_folder import Run
from dusk.report.scores import Cell, label_of
from dusk.report.wording import count, signed


@dataclass(frozen=True)
class JudgedRow:
    """A model, asked with so many finished conversations in front; a cell a column."""

    label: str
    size: str
    size_value: int
    shots: int
    reference: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Judged:
    """The grades of one results file, those with as many shots together.

    Cells are compared with those of as many shots alone: `best`, and the difference from `reference`.
    """

    label: str
    judge: str
    scale: str
    columns: tuple[str, ...]
    rows: tuple[JudgedRow, ...]
    reference: str
    notes: tuple[str, ...]


def judged_tables(run: Run) -> tuple[Judged, ...]:
    """The grades of every finished `judge` stage; raises DataError for a results file that is damaged."""
    found = []
    for stage in run.stages:
        if stage.kind != "judge" or not stage.folder.is_dir():
            continue
        for path in sorted(stage.folder.glob("*.json")):
            told = read_object(path)
            rows = [row for row in _list(told, "scores") if isinstance(row, dict)]
            if "judge" in told and rows:
                found.append(_table(run, stage.label, told, sorted(rows, key=_shots)))
    return tuple(found)


def _table(run: Run, label: str, told: Json, rows: Sequence[Json]) -> Judged:
    """`rows` in the order of their shots."""
    grades = {_key(row): _by_column(row, row.get("overall")) for row in rows}
    differing = [mapping(row) for row in _list(told, "differences")]
    differences = {_key(row): _by_column(row, row) for row in differing}
    reference = str(next(iter(differing), {}).get("minus", ""))
    return Judged(
        label=label,
        judge=str(told["judge"]),
        scale=" to ".join(f"{end:g}" for end in map(finite, _list(told, "scale")) if end is not None),
        columns=tuple(next(iter(grades.values()))),
        rows=tuple(_row(run, key, grades, differences.get(key, {}), reference) for key in grades),
        reference=label_of(run, reference) if reference else "",
        notes=tuple(f"{note}." for note in _list(told, "notes")),
    )


def _by_column(row: Json, overall: object) -> dict[str, Json]:
    """What a row of the results file tells overall, of each turn and of each category."""
    turns = {f"Turn {number}": told for number, told in enumerate(_list(row, "turns"), start=1)}
    told = {"Overall": overall, **turns, **mapping(row.get("categories"))}
    return {str(column): mapping(each) for column, each in told.items()}


def _row(
    run: Run,
    key: tuple[str, int],
    grades: dict[tuple[str, int], dict[str, Json]],
    differences: dict[str, Json],
    reference: str,
) -> JudgedRow:
    name, shots = key
    alike = [columns for other, columns in grades.items() if other[1] == shots]
    cells = []
    for column in next(iter(grades.values())):
        scores = [score_of(columns.get(column, {})) for columns in alike]
        cell = _cell(score_of(grades[key].get(column, {})), scores)
        cells.append(_against_reference(cell, differences.get(column, {})))
    stage = run.stage(name)
    parameters = stage.parameters if stage else None
    return JudgedRow(
        label=label_of(run, name),
        size=count(parameters),
        size_value=parameters or 0,
        shots=shots,
        reference=name == reference,
        cells=tuple(cells),
    )


def _cell(score: Score | None, column: Sequence[Score | None]) -> Cell:
    """A grade; the best of its column in bold, unless all are alike."""
    if score is None:
        return Cell()
    shown = {_shown(other.value) for other in column if other is not None}
    best = max(other.value for other in column if other is not None)
    text, error = _shown(score.value), "" if score.stderr is None else _shown(score.stderr)
    return Cell(text, error, score.value, best=len(shown) > 1 and text == _shown(best))


def _against_reference(cell: Cell, difference: Json) -> Cell:
    value, low, high = (finite(difference.get(name)) for name in ("difference", "low", "high"))
    if value is None or low is None or high is None:
        return cell
    interval = f"95 % interval {_plus(low)} to {_plus(high)}"
    hint = f"{_plus(value)} from the reference with as many shots, {interval}"
    return replace(cell, noise=low <= 0 <= high, hint=hint)


def _plus(value: float) -> str:
    return f"+{_shown(value)}" if value > 0 else _shown(value)


def _shown(grade: float) -> str:
    return signed(f"{grade:.2f}")


def _key(row: Json) -> tuple[str, int]:
    return str(row.get("model", "")), _shots(row)


def _shots(row: Json) -> int:
    return int(finite(row.get("shots")) or 0)


def _list(told: Json, key: str) -> list[object]:
    found = told.get(key)
    return found if isinstance(found, list) else []
