"""The command that compares maps before anything is written."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dusk.cli.settings import ManyValuesCommand
from dusk.cli.terminal import Bar, amount, duration, show_json, table

if TYPE_CHECKING:
    from dusk.scan import ScanReport

_ROWS = 12
_WIDTH = 80
_TRAINER = ("learning_rate", "optimizer")


@click.command(cls=ManyValuesCommand)
@click.argument("base")
@click.argument("out")
@click.option("--to", type=int, metavar="LAYERS", help="the depth whose maps are compared")
@click.option("--params", metavar="SIZE", help="about this many parameters instead, such as 11B")
@click.option("--text", "text", multiple=True, required=True, metavar="FILE...", help="held-out text")
@click.option("--layers", multiple=True, metavar="SPEC...", help="a map of your own to measure beside them")
@click.option("--measured", type=int, metavar="N", help="maps whose exact loss is measured, 8 unless told")
@click.option("--sizes", type=int, metavar="N", help="other depths in the curve of damage, 4 unless told")
@click.option(
    "--tokens", type=int, metavar="N", help="tokens of the text that are used, about 16k unless told"
)
@click.option(
    "--from-disk/--in-memory", default=None, help="where the layers lie; unless told, as memory allows"
)
@click.option(
    "--probe-data", multiple=True, metavar="FILE...", help="train the best four on this, by halving"
)
@click.option("--probe-tokens", type=int, metavar="N", help="tokens of the first round of training")
@click.option("--learning-rate", type=float, metavar="X", help="of the probes, as in `dusk pretrain`")
@click.option("--optimizer", type=click.Choice(["adamw", "muon"]), help="of the probes")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def scan(base: str, out: str, text: tuple[str, ...], as_json: bool, **settings: Any) -> None:
    """Compare maps."""
    from dusk.report.scan import write_scan_page
    from dusk.scan import scan as scan_maps

    given: dict[str, Any] = {key: value for key, value in settings.items() if value not in (None, ())}
    trainer: dict[str, Any] = {}
    for key in _TRAINER:
        if key in given:
            trainer[key] = given.pop(key)
    with Bar("scan") as bar:
        report = scan_maps(
            base, out, text=[Path(file) for file in text], progress=bar, probe_settings=trainer, **given
        )
    write_scan_page(report.out)
    (show_json if as_json else _show)(report)


scan.places = 2


def _show(report: "ScanReport") -> None:
    result = report.result
    measured = [row for row in result["maps"] if "damage" in row]
    rows = [
        (
            row["spec"] + (" (the paper's)" if row["papers"] else ""),
            f"{row['damage']:.4f}",
            f"{row['error']:.4f}",
            f"{row['best']:.0%}",
            f"{row['drift']:.3f}",
        )
        for row in measured[:_ROWS]
    ]
    size = f"{result['target']['layers']} layers, {amount(result['target']['parameters'])} parameters"
    table(
        ("map", "damage", "error", "best in", "drift"),
        rows,
        title=f"{size}; damage in nats a token",
    )
    cost = result["cost"]
    click.echo(
        f"{cost['screened']} maps screened, {cost['measured']} measured in {duration(cost['seconds'])}."
    )
    for number, tried in enumerate(result["probes"] or (), 1):
        _show_round(number, tried)
    click.echo(textwrap.fill(result["recommendation"]["words"], _WIDTH))
    for refused in result["refused"]:
        click.echo(f"Not possible: {refused['spec']}: {refused['reason']}", err=True)
    click.echo(f"Page: {report.out / 'scan.html'}")


def _show_round(number: int, tried: dict[str, Any]) -> None:
    rows = [
        (row["spec"], f"{row['loss']:.4f}", f"{row['bits_per_byte']:.4f}", "yes" if row["kept"] else "")
        for row in tried["maps"]
    ]
    title = f"round {number}: after {amount(tried['tokens'])} tokens of training"
    table(("map", "held-out loss", "bits per byte", "goes on"), rows, title=title)
