"""The recipe: a name, a seed, and stages that start from each other's output."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, StringConstraints

from dusk.recipe.settings import StageSettings

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]


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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**31)
    threads: int | None = Field(None, ge=1)
    gpus: int | None = Field(None, ge=1)
    nodes: int | None = Field(None, ge=1)
    stages: Mapping[Name, SerializeAsAny[StageSettings]] = Field(min_length=1)

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
        head = self.model_dump(exclude={"stages"})
        head = {key: value for key, value in head.items() if value not in ("", None)}
        stages = {name: {"kind": stage.kind, **stage.shown()} for name, stage in self.stages.items()}
        return yaml.safe_dump({**head, "stages": stages}, sort_keys=False, allow_unicode=True, width=100)


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
