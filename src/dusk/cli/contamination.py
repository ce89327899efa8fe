"""The command that asks whether benchmarks are in a model's training data."""

from typing import TYPE_CHECKING, Any

import click

from dusk.cli.settings import ManyValuesCommand
from dusk.cli.terminal import Bar, show_json, table

if TYPE_CHECKING:
    from dusk.evaluate.contamination import ContaminationReport


@click.command(cls=ManyValuesCommand)
@click.argument("model")
@click.option("--reference", required=True, metavar="REF", help="the model that neighbours are drawn from")
@click.option(
    "--task", multiple=True, required=True, metavar="NAME...", help="arc, gsm8k and so on, or files of items"
)
@click.option("--data", metavar="DIR", help="folder with the benchmarks by name")
@click.option("--train", multiple=True, metavar="FILE...", help="training data, for overlap by words")
@click.option("--items", type=int, metavar="N", help="items of each task [100]")
@click.option("--samples", type=int, metavar="N", help="neighbours of each item [100]")
@click.option("--seed", type=int, metavar="N", help="of items and neighbours [0]")
@click.option("--device", metavar="TEXT", help="cpu, cuda or cuda:N")
@click.option("--dtype", metavar="TEXT", help="type of the arithmetic; auto is float32 on a CPU")
@click.option("--out", metavar="FILE", help="where the results go, as JSON")
@click.option("--neighbours", metavar="FILE", help="keeps what the reference wrote [beside --out]")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def contamination(model: str, as_json: bool, **given: Any) -> None:
    """Test a model."""
    from dusk.evaluate.contamination import contamination as test

    with Bar("contamination", "items") as bar:
        found = test(model, progress=bar, **{key: one for key, one in given.items() if one not in (None, ())})
    if as_json:
        show_json(found)
    else:
        show(found)


def show(found: "ContaminationReport") -> None:
    """Print the paper's Table 9 for the model, with the other tests beneath."""
    tasks = found.tasks
    rows = [["result < 0.1, %", *(f"{task.result:.2f}" for task in tasks)]]
    rows.append(["  likely seen", *("yes" if task.likely else "no" for task in tasks)])
    rows.append(["Min-20% (nats)", *(f"{task.min_k:.2f}" for task in tasks)])
    above = ("" if task.min_k_above is None else f"{task.min_k_above:.2f}" for task in tasks)
    rows.append(["  above reference's", *above])
    if any(task.overlap is not None for task in tasks):
        rows.append(["13 words in training", *(f"{task.overlap:.2f}" for task in tasks)])
    settings = found.settings
    click.echo(f"{found.model}, reference {found.reference}, {settings['items']} items of each task")
    table(["", *(task.task for task in tasks)], rows)
    click.echo(f"A result above {settings['likely']} means that the task is likely in the training data.")
    for note in found.notes:
        click.echo(f"{note}.")
