"""The run folder: `recipe.yaml`, `run.json`, one folder a stage, and `state/` for work in progress."""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dusk import __version__
from dusk.errors import OutputError, RecipeError, SettingError
from dusk.recipe.machine import machine, typed_command
from dusk.recipe.outcome import RunReport, StageReport
from dusk.recipe.recipe import Recipe, stage_of
from dusk.recipe.settings import StageSettings
from dusk.recipe.work import STAMP

_HANDOVER_SECONDS = 1.0


class RunFolder:
    """A run folder and what may be read from and written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state"
        self.origin: dict[str, Any] = {}

    def open(self, recipe: Recipe) -> None:
        """Create the folder, or check that it holds a run of this recipe.

        Raises SettingError where it holds something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise SettingError(f"{self.path} is a file.", remedy="Give another --out.")
        before = self.summary()
        if self.path.is_dir() and not self.state.is_dir() and any(self.path.iterdir()):
            raise SettingError(
                f"{self.path} exists and is no run folder.", remedy="Give another --out, or an empty folder."
            )
        if before.get("name", recipe.name) != recipe.name:
            raise SettingError(
                f"{self.path} holds a run of the recipe '{before['name']}', not of '{recipe.name}'.",
                remedy="Give each recipe its own --out.",
            )
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be made: {error.strerror}.") from None
        self.origin = {
            "started": before.get("started") or datetime.now(UTC).isoformat(timespec="seconds"),
            "command": typed_command() or before.get("command"),
            "machine": machine(),
        }

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process alone. Raises OutputError where another run has it."""
        deadline = time.monotonic() + _HANDOVER_SECONDS
        with (self.state / "run.lock").open("a+") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        file.seek(0)
                        owner = file.read().strip() or "unknown"
                        raise OutputError(
                            f"{self.path}: another `dusk run` (process {owner}) works here.",
                            remedy="Wait for it, or end it; the same command then continues.",
                        ) from None
                    time.sleep(0.05)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def stage(self, name: str) -> Path:
        """The folder of a stage's output."""
        return self.path / name

    def finished(self, name: str, fingerprint: str) -> dict[str, Any] | None:
        """The facts of a finished stage, if its output is there and was made from the same things."""
        facts = _read(self.stage(name) / STAMP)
        return facts if facts.get("fingerprint") == fingerprint else None

    def take(self, other: "RunFolder", name: str, fingerprint: str) -> dict[str, Any] | None:
        """Copy a stage that another run has finished, if it was made from the same things; its facts.

        The copy is whole before it is moved to its place, as a stage that is made here.
        """
        facts = other.finished(name, fingerprint)
        if facts is None or other.path == self.path:
            return None
        copy = self.state / fingerprint[:16] / f"{name}.copy"
        shutil.rmtree(copy, ignore_errors=True)
        try:
            shutil.copytree(other.stage(name), copy, symlinks=True)
            facts = {"taken_from": other.path.name, **facts}
            (copy / STAMP).write_text(json.dumps(facts, indent=1), encoding="utf-8")
            if self.stage(name).exists():
                shutil.rmtree(self.stage(name))
            copy.rename(self.stage(name))
        except OSError as error:
            raise OutputError(f"{self.stage(name)} cannot be written: {error.strerror or error}.") from None
        return facts

    def arguments(self, settings: StageSettings, stages: dict[str, Any]) -> dict[str, Any]:
        """The keywords of a stage's function: its settings, with names of stages replaced by paths.

        Raises RecipeError where a stage has no file of the name that is asked for.
        """
        given = settings.given()
        for key in settings.references():
            value = given.get(key)
            if isinstance(value, list):
                given[key] = [self._resolve(text, stages) for text in value]
            elif isinstance(value, str):
                given[key] = self._resolve(value, stages)
        return given

    def _resolve(self, text: str, stages: dict[str, Any]) -> str:
        stage = stage_of(text, stages)
        if stage is None:
            return text
        path = self.path / text
        if not path.exists():
            held = sorted(entry.name for entry in self.stage(stage).iterdir() if entry.name != STAMP)
            raise RecipeError(f"{text!r}: the stage '{stage}' made no such file; it made {', '.join(held)}.")
        return str(path.absolute())

    def summary(self) -> dict[str, Any]:
        """What run.json holds; empty where there is none."""
        return _read(self.path / "run.json")

    def write(self, name: str, text: str) -> None:
        """Write a file of the run folder so that it is either the old or the new one."""
        partial = self.state / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self.path / name)

    def write_summary(self, report: RunReport) -> None:
        """Write run.json."""
        rows = [_row(stage) for stage in report.stages]
        told = {name: value for name, value in self.origin.items() if value}
        content = {"dusk": __version__, **report.to_json(), **told, "stages": rows}
        del content["out"]
        self.write("run.json", json.dumps(content, indent=1, default=str) + "\n")

    def clear_state(self) -> None:
        """Remove what unfinished stages of earlier settings left; only the logs stay."""
        for entry in self.state.iterdir():
            if entry.is_dir() and entry.name != "log":
                shutil.rmtree(entry, ignore_errors=True)


def _row(stage: StageReport) -> dict[str, Any]:
    row = {key: value for key, value in vars(stage).items() if value is not None}
    return {**row, "folder": stage.name, "results": {**_measured(stage), **stage.results}}


def _measured(stage: StageReport) -> dict[str, Any]:
    return {} if stage.peak_memory_bytes is None else {"peak_memory_bytes": stage.peak_memory_bytes}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
