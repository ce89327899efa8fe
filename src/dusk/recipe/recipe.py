"""The recipe: a name, a seed, and stages that start from each other's output."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, StringConstraints

from dusk.recipe.settings import StageSettings

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]


class Table(BaseModel):
    """A table of the report: stages that make models, what was chosen for each, and the scores of each.

    Attributes:
        title: what is above it.
        paper: the table of SOLAR (arXiv 2312.15166) whose figures stand beside ours, in rows of the same label.
        columns: what was chosen, in order.
        rows: the stages, each with its choice in every column; true and false are marks of on and off.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = ""
    paper: Literal["table3", "table4", "table5", "table6", "table7"] | None = None
    columns: list[str] = Field(default_factory=list)
    rows: Mapping[Name, Mapping[str, bool | str]] = Field(min_length=1)

    def shown(self) -> dict[str, Any]:
        """What the recipe says of it."""
        return self.model_dump(exclude_defaults=True)


class Recipe(BaseModel):
    """A recipe that has been read and found whole.

    Attributes:
        name: what the run is called.
        description: a line for people.
        seed: what the seeds of the stages are derived from.
        threads: processor threads a stage; as many as the cores allow where it is None.
        gpus: processes that a training stage runs in on each machine, one a GPU; one where it is None.
        nodes: machines that training stages run on, each with `gpus`; one where it is None.
        stages: the stages by name; each one uses earlier ones only.
        tables: the tables of a report, by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**31)
    threads: int | None = Field(None, ge=1)
    gpus: int | None = Field(None, ge=1)
    nodes: int | None = Field(None, ge=1)
    stages: Mapping[Name, SerializeAsAny[StageSettings]] = Field(min_length=1)
    tables: Mapping[Name, Table] = Field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Processes of a training stage, on all machines."""
        return (self.gpus or 1) * (self.nodes or 1)

    def uses(self, name: str) -> tuple[str, ...]:
        """The stages whose output the stage `name` starts from, in the order in which it names them."""
        settings = self.stages[name]
        named = (stage_of(text, self.stages) for _, text in referring(settings))
        return tuple(dict.fromkeys(stage for stage in named if stage is not None))

    def absent_files(self) -> list[str]:
        """The files of this machine that stages name and that are not there."""
        named = {
            text: None
            for settings in self.stages.values()
            for _, text in referring(settings)
            if Path(text).is_absolute() and not Path(text).exists()
        }
        return list(named)

    def to_yaml(self) -> str:
        """The resolved recipe: every default merged in, every seed named. It is a recipe again."""
        head = self.model_dump(exclude={"stages", "tables"})
        head = {key: value for key, value in head.items() if value not in ("", None)}
        stages = {name: {"kind": stage.kind, **stage.shown()} for name, stage in self.stages.items()}
        tables = {name: table.shown() for name, table in self.tables.items()}
        content = {**head, "stages": stages, **({"tables": tables} if tables else {})}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def referring(settings: StageSettings) -> Iterator[tuple[str, str]]:
    """The settings that may name another stage's output, as (key, text)."""
    for key in settings.references():
        value = getattr(settings, key)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                yield key, text


def stage_of(text: str, stages: Mapping[str, Any]) -> str | None:
    """The stage that a reference (`scaled`, `docs/continue.jsonl`) names, or None."""
    stage = text.split("/", 1)[0]
    return stage if stage in stages else None


def derived_seed(seed: int, kind: str) -> int:
    """The seed of the stages of one kind.

    Stages of a kind share it, so that models compared with each other see their data in the same order.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{kind}".encode()).digest()[:4], "big") % 2**31
