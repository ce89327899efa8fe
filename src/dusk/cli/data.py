"""The commands that make training data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from dusk.cli.commands import Entry
from dusk.cli.main import LazyGroup
from dusk.cli.settings import settings_command
from dusk.cli.terminal import facts, plain, table

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
    "convert": Entry(
        "dusk.cli.data:convert",
        "Make training rows of published data sets.",
        "dusk data convert ./sft --data Open-Orca/OpenOrca --source open-orca",
    ),
    "decontaminate": Entry(
        "dusk.cli.data:decontaminate",
        "Leave out rows that overlap with benchmarks.",
        "dusk data decontaminate ./clean --data orca.jsonl --against gsm8k/test.jsonl",
    ),
    "deduplicate": Entry(
        "dusk.cli.data:deduplicate",
        "Leave out rows that stand twice, or nearly.",
        "dusk data deduplicate ./once --data orca.jsonl --data alpaca.jsonl",
    ),
    "filter": Entry(
        "dusk.cli.data:filter_tasks",
        "Leave out rows of FLAN tasks that belong to benchmarks.",
        "dusk data filter ./clean --data orca.jsonl --flan flan.parquet",
    ),
    "math-instruct": Entry(
        "dusk.cli.data:math_instruct",
        "Put questions and answers of mathematics in other words.",
        "dusk data math-instruct ./math --data gsm8k/train.jsonl",
    ),
    "math-alignment": Entry(
        "dusk.cli.data:math_alignment",
        "Pair rephrased answers with the original ones.",
        "dusk data math-alignment ./pairs --data math.jsonl",
    ),
}


def _show(result: Any) -> None:
    told = plain(result)
    if isinstance(told, dict):
        facts({str(name): value for name, value in told.items()})


def _show_rows(result: Mapping[str, Any]) -> None:
    """Rows in, left out by reason and kept; what else was found; where it is."""
    told = dict(result)
    rows, kept, out = told.pop("rows"), told.pop("kept"), told.pop("out")
    lines = {"read": f"{rows:,}"}
    lines |= {f"left out: {reason}": f"{count:,}" for reason, count in told.pop("left_out").items()}
    lines["kept"] = f"{kept:,}"
    lines["licences"] = ", ".join(told.pop("licenses"))
    for name, value in told.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            lines |= {f"{words}: {key}": _told(one) for key, one in value.items()}
        else:
            lines[words] = _told(value)
    facts(lines | {"written": out})


def _told(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _show_benchmarks(result: Mapping[str, Any]) -> None:
    """The counts, and a table of what was found of each benchmark."""
    _show_rows({key: value for key, value in result.items() if key != "benchmarks"})
    click.echo()
    rows = [
        [name, *(f"{found[key]:,}" for key in ("items", "whole", "matched", "matched_whole", "rows"))]
        for name, found in result["benchmarks"].items()
    ]
    table(["benchmark", "items", "compared whole", "matched", "of them whole", "rows"], rows)
    spared = [name for name, found in result["benchmarks"].items() if found["rows"] and not found["left_out"]]
    if spared:
        click.echo(f"Too few items matched for their rows to be left out: {', '.join(spared)}.")
    click.echo(f"What matched what: {result['out']}/matches.jsonl")


def _filter_command(
    kind: str, show: Callable[[Any], None] = _show_rows, more: Sequence[click.Option] = ()
) -> click.Command:
    """A command from files of rows to a folder of rows, which can tell what it left out."""
    rejects = click.Option(["--rejects"], metavar="FILE", help="also write the rows left out, with reasons")
    return settings_command(kind, words=("out",), more=[rejects, *more], show=show)


documentation = settings_command("documentation", words=("out",), show=_show)
arithmetic = settings_command("arithmetic", words=("out",), show=_show)
instructions = settings_command("instructions", words=("out",), show=_show)
convert = _filter_command("convert")
decontaminate = _filter_command("decontaminate", _show_benchmarks)
deduplicate = _filter_command("deduplicate")
filter_tasks = _filter_command("filter")
_cache = click.Option(["--cache"], metavar="FILE", help="answers by request [answers.jsonl in OUT]")
math_instruct = _filter_command("math-instruct", more=[_cache])
math_alignment = _filter_command("math-alignment", more=[_cache])
data = LazyGroup("data", _ENTRIES)
