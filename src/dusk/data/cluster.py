"""A pass on more than one machine: datatrove's executors make the parts, the command itself does the rest.

    from datatrove.executor import LocalPipelineExecutor
    decontaminate(out, data=files, against=tests, spread=on_datatrove(LocalPipelineExecutor, tasks=8, workers=4))

A task makes every n-th part of the pass, with the functions that a single process would use, into the folder of
the output, which all machines must see. What the tasks made is the same bytes wherever they ran; a part that
none of them has made is made by the command.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dusk.data.passes import Judge, Spread, part_of
from dusk.data.units import Unit


@dataclass
class PartsStep:
    """A step of a datatrove pipeline: the parts of one task."""

    units: Sequence[Unit] = field(repr=False)
    judge: Judge
    folder: Path

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Make every `world_size`-th part from number `rank` on."""
        self.judge.begin()
        for unit in self.units[rank::world_size]:
            part_of(unit, self.judge, self.folder)


def on_datatrove(executor: Callable[..., Any], **settings: Any) -> Spread:
    """A way to spread a pass: an executor's class, such as LocalPipelineExecutor, and its settings.

    The executor's `run` must return when its tasks have ended. Its log goes to a folder beside the parts.
    """

    def spread(units: Sequence[Unit], judge: Judge, folder: Path) -> None:
        logs = {"logging_dir": str(folder.with_name("datatrove"))}
        executor(pipeline=[PartsStep(units, judge, folder)], **logs | settings).run()

    return spread
