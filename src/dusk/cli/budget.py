"""The command that says what a recipe will cost."""

from dataclasses import asdict

import click

from dusk.budget.cost import GRID_G_KWH, HOST_OVERHEAD, MFU, PUE, Inference
from dusk.budget.plan import Budget, StageBudget, budget
from dusk.cli.terminal import amount, byte_size, duration, sentences, show_json, table
from dusk.errors import SettingError
from dusk.machines import Gpu, parse_machine


@click.command("budget")
@click.argument("recipe")
@click.option("--gpus", metavar="NxGPU", required=True, help="the machine, such as 8xH100")
@click.option("--config", metavar="STAGE=FILE", multiple=True, help="config.json of a model that is not here")
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    default=MFU,
    show_default=True,
    help="share of the peak reached",
)
@click.option(
    "--pue",
    type=click.FloatRange(1),
    default=PUE,
    show_default=True,
    help="power of the data centre to its machines'",
)
@click.option(
    "--grid", type=click.FloatRange(0), default=GRID_G_KWH, show_default=True, help="grams of CO2 a kWh"
)
@click.option("--json", "as_json", is_flag=True, help="print the result as JSON")
def command(
    recipe: str, gpus: str, config: tuple[str, ...], mfu: float, pue: float, grid: float, as_json: bool
) -> None:
    """Say what a recipe will cost."""
    configs = dict(_pair(text) for text in config)
    made = budget(recipe, parse_machine(gpus), configs=configs, mfu=mfu, pue=pue, grid=grid)
    if as_json:
        inputs = {"mfu": mfu, "pue": pue, "grid_g_kwh": grid, "host_overhead": HOST_OVERHEAD}
        totals = {what: made.total(what) for what in ("seconds", "gpu_hours", "kwh", "co2_kg")}
        show_json({**asdict(made), "inputs": inputs, "totals": totals})
        return
    _show(made, mfu, pue, grid)


def _pair(text: str) -> tuple[str, str]:
    name, sign, file = text.partition("=")
    if not sign:
        raise SettingError(
            f"--config is {text!r}: it is the name of a stage and a file, such as base=config.json."
        )
    return name, file


def _show(made: Budget, mfu: float, pue: float, grid: float) -> None:
    table(
        ["stage", "parameters", "tokens", "memory a GPU", "tokens/s", "time", "GPU hours"],
        [_row(stage) for stage in made.stages if stage.parameters is not None],
    )
    gpu = made.machine.gpu
    short = [stage.name for stage in made.stages if stage.cost is not None and not stage.cost.fits]
    if short:
        sentences(
            f"Does not fit {gpu.memory_gb:g} GB: {', '.join(short)}. More GPUs, fewer micro_batch_tokens, "
            "gradient_checkpointing, or optimizer adamw-bf16 with weights bf16."
        )
    lighter = [stage.name for stage in made.stages if stage.as_adamw]
    if lighter:
        sentences(f"Costed as full training with AdamW, which takes more: {', '.join(lighter)}.")
    bound = [stage.name for stage in made.stages if stage.cost is not None and stage.cost.communication_bound]
    if bound:
        sentences(f"Bound by communication: {', '.join(bound)}. More micro_batch_tokens.")
    sentences(
        f"In all {duration(made.total('seconds'))}, {amount(made.total('gpu_hours'))} GPU-hours, "
        f"{amount(made.total('kwh'))} kWh, {amount(made.total('co2_kg'))} kg CO2; at {mfu:.0%} of the peak, "
        f"{gpu.watts * (1 + HOST_OVERHEAD):.0f} W a GPU with its host, PUE {pue:g}, {grid:g} g CO2 a kWh."
    )
    if made.base and made.scaled:
        for name, model in (("base", made.base), ("scaled", made.scaled)):
            sentences(_serving(name, model, gpu))


def _serving(name: str, model: Inference, gpu: Gpu) -> str:
    needs = (
        f"Serving the {name} in bf16: {byte_size(model.weight_bytes)} and "
        f"{byte_size(model.cache_bytes_per_token)} a token of context"
    )
    if not model.fits:
        return f"{needs}; does not fit one {gpu.name} of {gpu.memory_gb:g} GB."
    return (
        f"{needs}; fits one {gpu.name} of {gpu.memory_gb:g} GB with {model.room_tokens:,} tokens of context, "
        f"at most {model.tokens_per_second:.0f} tokens/s to one user."
    )


def _row(stage: StageBudget) -> list[str]:
    size = amount(stage.parameters or 0)
    if stage.cost is None:
        return [stage.name, size, *["–"] * 5]
    known = stage.cost.seconds is not None
    return [
        stage.name,
        size,
        amount(stage.tokens) if stage.tokens else "?",
        byte_size(stage.cost.memory.total),
        amount(stage.cost.tokens_per_second),
        duration(stage.cost.seconds or 0) if known else "?",
        amount(stage.cost.gpu_hours or 0) if known else "?",
    ]
