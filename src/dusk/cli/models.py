"""The commands from checkpoint to checkpoint: scale, inspect, verify, merge."""

from typing import TYPE_CHECKING

import click

from dusk.cli.settings import settings_command
from dusk.cli.terminal import amount, byte_size, duration, facts, plain, sentences, show_json

if TYPE_CHECKING:
    from dusk.merge import MergeReport
    from dusk.scale import ScaleReport


def _show_scale(report: "ScaleReport") -> None:
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    layer_map = report.layer_map
    size = byte_size(report.tensor_bytes)
    if report.shared_bytes:
        size += f", {byte_size(report.shared_bytes)} of it shared with the base"
    facts(
        {
            "layers": f"{layer_map.base_layers} -> {len(layer_map)}  ({layer_map.spec()})",
            "parameters": f"{amount(report.base_parameters)} -> {amount(report.parameters)}",
            "size": f"{size}, {byte_size(report.disk_left_bytes)} left on the disk",
            "written" if not report.dry_run else "would write": f"{report.out} in {duration(report.seconds)}",
        }
    )
    for note in report.notes:
        click.echo(f"Note: {note}")


scale = settings_command(
    "scale",
    words=("base", "out"),
    flags={"architecture": "--as"},
    more=[click.Option(["--dry-run"], is_flag=True, help="say what would be made, and write nothing")],
    show=_show_scale,
)


def _show_merge(report: "MergeReport") -> None:
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    told = {key: value for key, value in report.settings.items() if key != "method"}
    how = ", ".join([report.settings["method"], *(f"{key} {value}" for key, value in told.items())])
    share = report.linear_share
    fallen = {"linear": f"{share:.1%} of the tensors: nearly parallel"} if share is not None else {}
    facts(
        {
            "merged": how,
            **fallen,
            "parameters": f"{amount(report.parameters)} in {report.tensors} tensors",
            "written": f"{report.out} in {duration(report.seconds)}",
        }
    )


merge = settings_command("merge", words=("models...",), out="OUT", show=_show_merge)


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def inspect(model: str, as_json: bool) -> None:
    """Show what a model is."""
    from dusk.checkpoint import inspect_checkpoint

    inspection = inspect_checkpoint(model)
    if as_json:
        show_json(inspection)
        return
    told = plain(inspection)
    per_layer = told.pop("parameters_per_layer")
    told["parameters"] = f"{told['parameters']:,}"
    told["total_bytes"] = f"{told['total_bytes']:,}"
    for name in ("dtypes", "files"):
        told[name] = ", ".join(f"{key} {count:,}" for key, count in told[name].items())
    told["parameters_per_layer"] = f"{per_layer[0]:,} each" if len(set(per_layer)) == 1 else per_layer
    facts({name.replace("_", " "): value for name, value in told.items() if value not in (None, {}, [])})


@click.command()
@click.argument("model")
@click.option("--forward", is_flag=True, help="load it, too: are logits with and without the cache equal?")
@click.option("--write", is_flag=True, help="write digests of every byte, which later checks compare with")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def verify(model: str, forward: bool, write: bool, as_json: bool) -> None:
    """Check a model."""
    from dusk.checkpoint import verify as verify_model

    report = verify_model(model, forward=forward, write=write)
    if as_json:
        show_json(report)
    for warning in () if as_json else report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    report.require()
    if not as_json:
        sentences(f"{report.path}: whole. Checked: {', '.join(report.checked)}.")
