"""What a run tells: an event while it works, and the report at its end."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class StageEvent:
    """Something that happened to a stage.

    Attributes:
        stage: its name.
        kind: its kind.
        status: what it is now.
        kept: it was finished before this run, with the same settings.
        done: how far it is, in `unit`s, and of how many; None where the stage does not say.
        values: numbers of the moment, such as the loss.
        seconds: how long it has worked.
        message: the error, where it failed.
    """

    stage: str
    kind: str
    status: Status
    kept: bool = False
    done: float | None = None
    total: float | None = None
    unit: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    message: str = ""


Progress = Callable[[StageEvent], None]


@dataclass
class StageReport:
    """One stage of a run, as run.json holds it; `taken_from` is the run that it was copied from, if any."""

    name: str
    kind: str
    status: Status
    uses: tuple[str, ...]
    settings: dict[str, Any]
    fingerprint: str
    kept: bool = False
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    results: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    taken_from: str | None = None


@dataclass
class RunReport:
    """A run: where it lies, what it took, every stage of it, and the tables that its recipe asks for.

    `node` is not 0 where it only lent its GPUs.
    """

    out: Path
    name: str
    seed: int
    jobs: int
    threads: int
    seconds: float
    stages: list[StageReport]
    node: int = 0
    tables: dict[str, Any] = field(default_factory=dict)

    def stage(self, name: str) -> StageReport:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)

    def evaluations(self) -> list[Path]:
        """The results files of the run's evaluations."""
        found = (self.out / stage.name / "results.json" for stage in self.stages)
        return [path for path in found if path.is_file()]

    def notes(self) -> list[str]:
        """What stages have to say to people, such as that another version of a package was read."""
        return [f"{stage.name}: {note}" for stage in self.stages for note in stage.results.get("notes", [])]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {**asdict(self), "out": str(self.out)}
