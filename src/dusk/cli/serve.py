"""The command serve."""

from typing import Any

import click


@click.command()
@click.argument("model")
@click.option(
    "--engine",
    type=click.Choice(["vllm", "transformers"]),
    help="unless told, vllm where it is installed and a GPU is there",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 to be reached from elsewhere")
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", default=8000, show_default=True)
@click.option("--device", metavar="TEXT", help="cpu, cuda, cuda:N or mps")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="of the weights; auto is float32 on a CPU and the model's own elsewhere",
)
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[-- FLAGS OF THE ENGINE]")
def serve(model: str, more: tuple[str, ...], **settings: Any) -> None:
    """Serve a model."""
    from dusk.use.serve import plan_service

    service = plan_service(model, more=more, **settings)
    click.echo(f"{service.name} by {service.engine}, at {service.address}", err=True)
    if not service.chats:
        click.echo("It has no chat template: ask for completions, not for chat.", err=True)
    service.run()
