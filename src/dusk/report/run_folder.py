"""Reading a run folder: the one place that knows the shape of run.json and of a stage's folder.

What a run has not measured is None or empty here, and every later file keeps it so: the report says what
is missing and fills no gap with a guess.
"""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from dusk.errors import DataError, InputError
from dusk.report.metrics import Metrics, read_metrics
from dusk.report.reading import Json, finite, mapping, read_object

_KINDS = {"eval": "evaluate", "model": "base", "checkpoint": "base"}
_HEADER_LIMIT_BYTES = 100_000_000  # as safetensors itself


@dataclass(frozen=True)
class Stage:
    """One stage as run.json tells it, with what its folder adds.

    `parents` are the models that it starts from, or that an evaluation scores; `looked_up` counts the
    parameters of an input embedding that is not the output head too. `taken_from` is the run that a stage
    was taken over from, which bore its cost; it has no seconds here.
    """

    name: str
    kind: str
    folder: Path
    label: str = ""
    status: str = "done"
    uses: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    settings: Json = field(default_factory=dict)
    results: Json = field(default_factory=dict)
    manifest: Json = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    seconds: float | None = None
    layers: int | None = None
    parameters: int | None = None
    looked_up: int = 0
    fingerprint: str = ""
    error: str = ""
    taken_from: str = ""

    @property
    def done(self) -> bool:
        """Whether its output is there."""
        return self.status == "done"

    @property
    def makes_model(self) -> bool:
        """Whether its output is a model."""
        return self.kind in MODEL_KINDS

    def number(self, key: str) -> float | None:
        """A measured result; None where it was not measured or is no finite number."""
        return finite(self.results.get(key))


MODEL_KINDS = ("base", "scale", "pretrain", "sft", "align", "merge")


@dataclass(frozen=True)
class Run:
    """A whole run folder, read once; `facts` is run.json without its stages."""

    folder: Path
    name: str
    facts: Json
    stages: tuple[Stage, ...]
    recipe: str | None = None

    @property
    def models(self) -> tuple[Stage, ...]:
        """The stages whose output is a model, in the recipe's order."""
        return tuple(stage for stage in self.stages if stage.makes_model)

    def stage(self, name: str) -> Stage | None:
        """The stage of that name, if there is one."""
        return next((stage for stage in self.stages if stage.name == name), None)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises InputError where there is no run to read, DataError where one of its files is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        what = "holds no run.json" if folder.is_dir() else "is not a folder"
        raise InputError(f"{folder} {what}.", remedy="Give the folder that `dusk run --out` wrote.")
    facts = read_object(path)
    rows = facts.pop("stages", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("name") for row in rows):
        raise DataError(
            f"{path}: `stages` is no list of named stages.", remedy="Give `dusk run` the same command."
        )
    names = {str(row["name"]) for row in rows}
    recipe = folder / "recipe.yaml"
    return Run(
        folder=folder,
        name=str(facts.get("name") or folder.name),
        facts=facts,
        stages=_with_outside_models([_stage(folder, row, names) for row in rows], names),
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None,
    )


def _stage(run: Path, row: Json, names: set[str]) -> Stage:
    place = run / str(row.get("folder") or row["name"])
    manifest = read_object(place / "dusk.json") if (place / "dusk.json").is_file() else {}
    settings, results = mapping(row.get("settings")), mapping(row.get("results"))
    kind = _KINDS.get(str(row.get("kind")), str(row.get("kind")))
    made_here = kind != "base"  # a base's own manifest and metrics tell of an earlier training
    results = {**(mapping(manifest.get("results")) if made_here else {}), **results}
    taken_from = str(row.get("taken_from") or "")
    seconds = finite(row.get("seconds"))
    if seconds is None and made_here:
        seconds = finite(results.get("seconds"))
    return Stage(
        name=str(row["name"]),
        kind=kind,
        folder=place,
        label=str(settings.get("label") or row["name"]),
        status=str(row.get("status") or ("done" if results else "waiting")),
        uses=tuple(str(name) for name in row.get("uses") or ()),
        parents=_parents(kind, settings, row, names),
        settings=settings,
        results=results,
        manifest=manifest,
        metrics=read_metrics(place / "metrics.jsonl") if made_here else Metrics(),
        seconds=None if taken_from else seconds,
        layers=_layers(results, place),
        parameters=_parameters(results, place),
        looked_up=_looked_up(place),
        fingerprint=str(row.get("fingerprint") or ""),
        error=str(row.get("error") or ""),
        taken_from=taken_from,
    )


def _parents(kind: str, settings: Json, row: Json, names: set[str]) -> tuple[str, ...]:
    """The models a stage starts from (or scores): what its settings name, else all or the first it uses."""
    if kind == "base":
        return ()
    told = settings.get("base") or settings.get("model") or settings.get("models") or []
    given = [str(name) for name in ([told] if isinstance(told, str) else told)]
    if given:
        return tuple(
            dict.fromkeys(name.split("/")[0] if name.split("/")[0] in names else name for name in given)
        )
    used = tuple(str(name) for name in row.get("uses") or ())
    return used if kind in ("merge", "evaluate", "judge") else used[:1]


def _with_outside_models(stages: list[Stage], names: set[str]) -> tuple[Stage, ...]:
    """Put a base before the stages for each model that one starts from and none made: a path or a hub id."""
    outside: dict[str, Stage] = {}
    for stage in stages:
        for parent in stage.parents if stage.makes_model else ():
            if parent not in names and parent not in outside:
                row = {"name": parent, "kind": "base", "status": "done"}
                found = _stage(Path(), {**row, "settings": {"label": Path(parent).name}}, names)
                outside[parent] = replace(found, metrics=Metrics())
    return (*outside.values(), *stages)


def _layers(results: Json, place: Path) -> int | None:
    told = finite(results.get("layers"))
    if told is None and (place / "config.json").is_file():
        told = finite(read_object(place / "config.json").get("num_hidden_layers"))
    return None if told is None else int(told)


def _looked_up(place: Path) -> int:
    config = read_object(place / "config.json") if (place / "config.json").is_file() else {}
    vocabulary, hidden = finite(config.get("vocab_size")), finite(config.get("hidden_size"))
    return 0 if config.get("tie_word_embeddings", False) else int((vocabulary or 0) * (hidden or 0))


def _parameters(results: Json, place: Path) -> int | None:
    told = finite(results.get("parameters"))
    if told is not None:
        return int(told)
    counts = [_stored_parameters(path) for path in place.glob("*.safetensors")]
    return sum(counts) or None


def _stored_parameters(path: Path) -> int:
    """Counted from the header of a safetensors file (8 bytes of length, then JSON); no tensor is read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_LIMIT_BYTES:
            return 0
        try:
            header = json.loads(file.read(length))
            return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError):
            return 0  # `dusk verify` says what is wrong with it
