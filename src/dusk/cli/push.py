"""The command push."""

import sys

import click

from dusk.cli.terminal import facts, show_json


@click.command()
@click.argument("model")
@click.argument("repo")
@click.option("--report", metavar="PATH", help="the page of a run, or the run's folder")
@click.option("--scores", metavar="FILE", help="results of `dusk eval`: its scores go into the card")
@click.option("--public", is_flag=True, help="a new repository is private unless this is given")
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def push(model: str, repo: str, report: str | None, scores: str | None, public: bool, as_json: bool) -> None:
    """Publish a model."""
    from dusk.use.push import push as push_model

    if not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars  # lazy: 0.3 s

        disable_progress_bars()
    done = push_model(model, repo, report=report, scores=scores, public=public)
    if as_json:
        show_json(done)
        return
    facts(
        {
            "published": done.url,
            "seen by": "its owners alone" if done.private else "everybody",
            "commit": done.commit,
        }
    )
