"""What the terminal shows: bars for what takes longer than two seconds, tables, and JSON for machines.

Results go to standard output and progress to standard error. Where that is no terminal, a run says one
short line a stage and everything else is quiet.
"""

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress, Task, TaskID

    from dusk.recipe import StageEvent

_PATIENCE_SECONDS = 2.0
_PIPED_WIDTH = 200


class Bar:
    """The progress of one piece of work; called by it with (done, total, unit, **values)."""

    def __init__(self, title: str, unit: str = "") -> None:
        self.title, self.unit = title, unit
        self.begin = time.monotonic()
        self.bars: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: float, total: float | None = None, unit: str = "", **values: Any) -> None:
        """Show how far the work is, once it has taken two seconds."""
        if not sys.stderr.isatty() or time.monotonic() - self.begin < _PATIENCE_SECONDS:
            return
        if self.bars is None:
            self.bars = bars()
            self.task = self.bars.add_task(self.title, total=total, unit=self.unit or unit, note="")
            self.bars.start()
        assert self.task is not None
        note = unit if self.unit else noted(values)
        self.bars.update(self.task, completed=done, total=total, note=note)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()


class RunDisplay:
    """The stages of a run: a bar for each that works, a line for each that has ended."""

    def __init__(self) -> None:
        self.bars = bars() if sys.stderr.isatty() else None
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, event: "StageEvent") -> None:
        """Show what happened to a stage."""
        if event.status == "running":
            self._working(event)
            return
        if self.bars is not None and event.stage in self.tasks:
            self.bars.remove_task(self.tasks.pop(event.stage))
        line = f"{event.stage:<20} {_ended(event)}"
        if self.bars is not None:
            self.bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(line, err=True)

    def _working(self, event: "StageEvent") -> None:
        if self.bars is None:
            return
        if event.stage not in self.tasks:
            self.tasks[event.stage] = self.bars.add_task(event.stage, total=None, unit="", note="")
        if event.done is not None:
            self.bars.update(
                self.tasks[event.stage],
                completed=event.done,
                total=event.total,
                unit=event.unit,
                note=noted(event.values),
            )


def _ended(event: "StageEvent") -> str:
    if event.status == "failed":
        return "failed"
    if event.kept:
        return "kept"
    return f"{event.status} in {duration(event.seconds)}" if event.status == "done" else event.status


def bars() -> "Progress":
    """Bars with how far, how fast and how long still, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Amount(ProgressColumn):
        """Done of all, and the rate."""

        def render(self, task: "Task") -> Text:
            if task.total is None:
                return Text(duration(task.elapsed or 0))
            unit = task.fields.get("unit", "")
            rate = f" · {amount(task.speed)}/s" if task.speed else ""
            return Text(f"{amount(task.completed)}/{amount(task.total)} {unit}{rate}".replace(" ·", " ·"))

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        Amount(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def noted(values: Mapping[str, Any]) -> str:
    """The loss, or the message, of a moment."""
    if isinstance(values.get("loss"), float):
        return f"loss {values['loss']:.3f}"
    return str(values.get("message", ""))


def amount(number: float) -> str:
    """A number in three digits: 312, 1.25k, 40.1M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return (
                f"{number / size:.3g}{letter}"
                if abs(number) < 1000 * size
                else f"{number / size:.0f}{letter}"
            )
    return f"{number:.3g}" if number % 1 else f"{number:.0f}"


def byte_size(number: float) -> str:
    """Bytes in decimal units: 2.45 MB, 83 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.3 s, 48 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table: the first column to the left, the numbers to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    tty = sys.stdout.isatty()
    made = Table(
        title=title or None,
        box=box.SIMPLE_HEAD if tty else None,
        title_justify="left",
        pad_edge=False,
        padding=(0, 1, 0, 0) if tty else (0, 1),
    )
    for place, header in enumerate(headers):
        # in a terminal headers wrap, between words only
        words = header.split() if tty and place else [header]
        width = max(map(len, [*words, *(row[place] for row in rows)]))
        made.add_column(header, justify="right" if place else "left", width=width)
    for row in rows:
        made.add_row(*row)
    console = Console() if tty else Console(width=_PIPED_WIDTH, color_system=None)
    console.print(made)


def facts(rows: Mapping[str, object]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        click.echo(f"{name:<{width}}  {value}")


def sentences(text: str) -> None:
    """Print sentences: in a terminal broken between words, elsewhere in one line."""
    width = shutil.get_terminal_size().columns
    click.echo(click.wrap_text(text, width) if sys.stdout.isatty() else text)


def show_json(result: Any) -> None:
    """Print a result for machines."""
    click.echo(json.dumps(plain(result), indent=2, default=str))


def plain(result: Any) -> Any:
    """A report as plain data."""
    if hasattr(result, "to_json"):
        return result.to_json()
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return dataclasses.asdict(result)
    return str(result) if isinstance(result, Path) else result
