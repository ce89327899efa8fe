"""The commands that make training data."""

from typing import Any

from dusk.cli.commands import Entry
from dusk.cli.main import LazyGroup
from dusk.cli.settings import settings_command
from dusk.cli.terminal import facts, plain

_ENTRIES = {
    "documentation": Entry(
        "dusk.cli.data:documentation",
        "Collect the documentation of installed packages.",
        "dusk data documentation ./docs --packages stdlib",
    ),
    "arithmetic": Entry(
        "dusk.cli.data:arithmetic",
        "Generate word problems in levels of difficulty.",
        "dusk data arithmetic ./problems --seed 1",
    ),
    "instructions": Entry(
        "dusk.cli.data:instructions",
        "Make instructions and preference pairs.",
        "dusk data instructions ./tasks --data docs/continue.jsonl",
    ),
}


def _show(result: Any) -> None:
    told = plain(result)
    if isinstance(told, dict):
        facts({str(name): value for name, value in told.items()})


documentation = settings_command("documentation", words=("out",), show=_show)
arithmetic = settings_command("arithmetic", words=("out",), show=_show)
instructions = settings_command("instructions", words=("out",), show=_show)
data = LazyGroup("data", _ENTRIES)
