"""The command eval, and the table of models and scores."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dusk.cli.settings import settings_command
from dusk.cli.terminal import table

if TYPE_CHECKING:
    from dusk.evaluate import EvalReport


def show_scores(report: "EvalReport", labels_of: Mapping[str, str] | None = None) -> None:
    """Print a row a model, with the suite's columns and means; `labels_of` are names to show for models."""
    means = list(report.suite.mean)
    labels = [column.label for column in report.columns]
    rows = [
        [
            (labels_of or {}).get(model.name, model.name),
            *(f"{report.mean(model.name, label).value:.4f}" for label in means),
            *(f"{report.cell(model.name, label).value:.4f}" for label in labels),
        ]
        for model in report.models
    ]
    table(["model", *means, *labels], rows)


evaluate = settings_command("evaluate", words=("models...",), out="FILE", show=show_scores)
