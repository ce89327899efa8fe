"""Small kinds of stage for the tests of the runner: they write files, slowly, wrongly or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from dusk.errors import DataError
from dusk.recipe import KINDS, Kind
from dusk.recipe.settings import File, Model, Seed, StageSettings


class Source(StageSettings):
    """Writes a file of its text and seed."""

    text: str = ""
    seed: Seed | None = None
    seconds: float = 0


class Meet(StageSettings):
    """Ends only beside others."""

    others: int


class Grow(StageSettings):
    """Appends lines one by one, in a `.partial` folder that a second attempt continues."""

    model: Model
    data: list[File] = Field(default_factory=list)
    lines: int = Field(3, ge=1)
    seconds: float = 0
    learning_rate: float | None = Field(None, gt=0)


class Fail(StageSettings):
    """Fails in its own way."""

    model: Model | None = None
    how: Literal["dusk", "python", "kill", "orphan", "interrupt"] = "dusk"


class Score(StageSettings):
    """Writes results of models."""

    models: list[Model]


def source(*, out: Path, text: str = "", seed: int | None = None, seconds: float = 0) -> None:
    time.sleep(seconds)
    (out / "text.txt").write_text(f"{text} {seed}\n")
    _count(out)


def meet(*, out: Path, others: int) -> None:
    """Waits until so many others are at work, and ends while they still are."""
    company = out.parent.parent / "company"
    company.mkdir(exist_ok=True)
    (company / out.name).touch()
    deadline = time.monotonic() + 60
    while len(list(company.iterdir())) <= others:
        if time.monotonic() > deadline:
            raise DataError("nobody came")
        time.sleep(0.01)
    time.sleep(0.2)
    (out / "company").write_text(str(len(list(company.iterdir()))))
    if not others:
        (company / out.name).unlink()


def grow(*, out, model, data=(), lines=3, seconds=0, learning_rate=None, progress=None) -> None:
    partial = Path(f"{out}.partial")
    partial.mkdir(exist_ok=True)
    path = partial / "text.txt"
    if not path.exists():
        _replace(path, Path(model, "text.txt").read_text() + "".join(Path(d).read_text() for d in data))
    have = len(path.read_text().splitlines())
    wanted = 1 + len(data) + lines
    for number in range(have, wanted):
        time.sleep(seconds / lines)
        _replace(path, path.read_text() + f"{number} {learning_rate}\n")
        progress(number, wanted, "lines", loss=1 / number)
    _count(partial)
    (partial / "dusk.json").write_text(json.dumps({"results": {"tokens": lines}}))
    partial.rename(out)


def fail(*, out: Path, model: str | None = None, how: str = "dusk") -> None:
    if how == "dusk":
        raise DataError("rows.jsonl:3: no text.", problems=["one", "two"], remedy="Mend it.")
    if how == "python":
        raise ZeroDivisionError("by zero")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "orphan":
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (out / "pid").write_text(str(started.pid))
        Path(out.parent.parent, "pids").write_text(f"{os.getpid()} {started.pid}")
        time.sleep(600)


def preloaded(*, out: Path, threads: int) -> None:
    """Needs what the heavy process has imported, and must not have to import it."""
    import torch

    assert "transformers.trainer" in sys.modules
    begin = time.perf_counter()
    grown = torch.ones(64, 64, requires_grad=True)
    (grown @ grown).sum().backward()
    assert time.perf_counter() - begin < 30, "the threads of the process it was forked from are awaited"
    (out / "threads").write_text(f"{threads} {torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}")


def score(*, out: Path, models: list[str]) -> None:
    rows = [
        {"name": Path(m).name, "scores": {"lines": {"n": {"value": len(Path(m, "text.txt").read_text())}}}}
        for m in models
    ]
    out.write_text(json.dumps({"suite": "fake", "models": rows}))


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def _count(folder: Path) -> None:
    """How often a stage has been done, kept outside of its output."""
    name = folder.name.removesuffix(".partial")
    with (folder.parent.parent / f"done-{name}").open("a") as file:
        file.write("x")


FAKES = {
    "source": Kind("source", Source, "fake_stages:source", "", out="folder"),
    "meet": Kind("meet", Meet, "fake_stages:meet", "", out="folder"),
    "grow": Kind("grow", Grow, "fake_stages:grow", ""),
    "fail": Kind("fail", Fail, "fake_stages:fail", "", out="folder"),
    "preloaded": Kind("preloaded", StageSettings, "fake_stages:preloaded", "", out="folder", torch=True),
    "score": Kind("score", Score, "fake_stages:score", "", out="results.json"),
}

if __name__ == "__main__":
    from dusk.errors import StoppedError
    from dusk.recipe import run

    # a shell starts what runs in the background deaf to SIGINT, and the deafness is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)
    KINDS.update(FAKES)
    try:
        run(sys.argv[1], sys.argv[2], jobs=2)
    except StoppedError as stopped:
        sys.exit(stopped.exit_code)
