"""The commands that train: pretrain, sft, align."""

from typing import Any

from dusk.cli.settings import settings_command
from dusk.cli.terminal import amount, duration, facts


def _show(report: Any) -> None:
    facts(
        {
            "tokens": amount(report.tokens),
            "loss": f"{report.final_loss:.4f}",
            "time": duration(report.seconds),
            "written": report.out,
        }
    )


pretrain = settings_command("pretrain", words=("[model]", "out"), show=_show)
sft = settings_command("sft", words=("model", "out"), show=_show)
align = settings_command("align", words=("model", "out"), flags={"steps": "--step"}, show=_show)
