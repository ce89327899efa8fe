"""A recipe's stages as work: what each starts from, how large it is, and what its training costs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dusk.budget.cost import GRID_G_KWH, MFU, PUE, Cost, Inference, Work, cost, inference
from dusk.budget.shape import Shape, read_shape
from dusk.checkpoint.shipped import locate
from dusk.errors import CheckpointError, DuskError, RecipeError
from dusk.layers import LayerMap
from dusk.machines import Machine
from dusk.recipe import Recipe, load_recipe
from dusk.recipe.settings import StageSettings

LARGEST_PASS, LONGEST = 16384, 4096
"""Tokens of a forward pass on a GPU, and of a document, where a stage does not say (`train/settings.py`)."""
DEFAULT_BATCH = 8192


@dataclass(frozen=True)
class StageBudget:
    """One stage: the model that comes out of it, and the cost of its training, if it trains.

    `as_adamw`: the stage has adapters or Muon, and is still costed as full training with AdamW.
    """

    name: str
    kind: str
    parameters: int | None
    tokens: int | None = None
    cost: Cost | None = None
    as_adamw: bool = False


@dataclass(frozen=True)
class Budget:
    """A recipe on a machine.

    `base` and `scaled` are what the first scaled stage starts from and makes, at work on one GPU.
    """

    machine: Machine
    stages: list[StageBudget]
    base: Inference | None
    scaled: Inference | None

    def total(self, what: str) -> float:
        """The sum of `seconds`, `gpu_hours`, `kwh` or `co2_kg` over the stages whose tokens are known."""
        return sum(getattr(stage.cost, what) or 0.0 for stage in self.stages if stage.cost is not None)


def budget(
    recipe: Recipe | str | Path,
    machine: Machine,
    *,
    configs: Mapping[str, str | Path] | None = None,
    mfu: float = MFU,
    pue: float = PUE,
    grid: float = GRID_G_KWH,
) -> Budget:
    """What the stages of a recipe cost on a machine; nothing is loaded but config.json files.

    `configs` gives the config.json of a model stage by the stage's name, where its path is a hub id that is not
    here. Data that a stage makes, or that are not here, are not counted: such a stage's time is left open unless
    its `tokens` are given.

    Raises:
        RecipeError: the recipe is wrong, or a model's config.json is not here.
    """
    whole = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, need_files=False)
    reading = _Reading(whole, machine, configs or {}, {"mfu": mfu, "pue": pue, "grid": grid})
    stages = [reading.stage(name) for name in whole.stages]
    if reading.problems:
        raise RecipeError("no budget can be made:", problems=reading.problems)
    pair = reading.pair
    gpu = Machine(machine.gpu, 1)
    return Budget(
        machine, stages, inference(pair[0], gpu) if pair else None, inference(pair[1], gpu) if pair else None
    )


class _Reading:
    """The shapes of the models as the stages go by."""

    def __init__(
        self, recipe: Recipe, machine: Machine, configs: Mapping[str, str | Path], inputs: dict[str, float]
    ) -> None:
        self.recipe, self.machine, self.configs, self.inputs = recipe, machine, configs, inputs
        self.shapes: dict[str, Shape] = {}
        self.pair: tuple[Shape, Shape] | None = None
        self.problems: list[str] = []

    def stage(self, name: str) -> StageBudget:
        settings = self.recipe.stages[name]
        try:
            shape = self._shape(name, settings)
        except DuskError as error:
            self.problems.append(f"stage '{name}': {error.message}")
            shape = None
        if shape is None:
            return StageBudget(name, settings.kind, None)
        self.shapes[name] = shape
        if settings.kind not in ("pretrain", "sft", "align"):
            return StageBudget(name, settings.kind, shape.parameters)
        work = _work(shape, settings)
        made = cost(work, self.machine, **self.inputs)
        return StageBudget(
            name, settings.kind, shape.parameters, work.tokens, made, _lighter(settings.given())
        )

    def _shape(self, name: str, settings: StageSettings) -> Shape | None:
        """The model that a stage makes; None where it makes none, or starts from one that has failed."""
        given = settings.given()
        match settings.kind:
            case "model":
                return self._config(name, str(given["path"]))
            case "scale":
                return self._scaled(given)
            case "merge":
                return self.shapes.get(given["models"][0])
            case "pretrain" if given.get("from_scratch"):
                return read_shape(Path(given["from_scratch"]))
            case "pretrain" | "sft" | "align":
                return self.shapes.get(given["model"])
        return None

    def _scaled(self, given: Mapping[str, Any]) -> Shape | None:
        base = self.shapes.get(given["base"])
        if base is None:
            return None
        made = base.deeper(_depth(base, given))
        made = replace(made, vocabulary=given.get("pad_vocabulary") or made.vocabulary)
        self.pair = self.pair or (base, made)
        return made

    def _config(self, name: str, path: str) -> Shape:
        if name in self.configs:
            return read_shape(Path(self.configs[name]))
        folder = Path(locate(path))
        if not folder.is_dir():
            raise CheckpointError(f"{path} is not here; give --config {name}=FILE, its config.json.")
        return read_shape(folder)


def _depth(base: Shape, given: Mapping[str, Any]) -> int:
    """Layers of the scaled model."""
    if given.get("layers"):
        return len(LayerMap.parse(given["layers"], base.layers))
    if given.get("to"):
        return len(LayerMap.to_depth(base.layers, given["to"]))
    if given.get("params"):
        from dusk.scale.choice import parse_size  # not needed to read most recipes

        wanted = parse_size(given["params"]) - base.table_parameters
        return round(wanted / base.layer_parameters)
    return len(LayerMap.depthwise(base.layers, given.get("drop")))


def _lighter(given: Mapping[str, Any]) -> bool:
    """Whether a stage holds less than full training with AdamW does, and nobody says how much less."""
    adapters = any(key.startswith("lora") and value for key, value in given.items())
    return adapters or given.get("optimizer") == "muon"


def _work(shape: Shape, settings: StageSettings) -> Work:
    given = settings.given()
    batch = given.get("batch_tokens") or DEFAULT_BATCH
    length = given.get("sequence_length") or min(shape.context, LONGEST)
    return Work(
        shape=shape,
        tokens=_tokens(given),
        batch_tokens=batch,
        micro_batch_tokens=max(given.get("micro_batch_tokens") or min(batch, LARGEST_PASS), length),
        sequence_length=length,
        precision=given.get("precision") or "bf16",
        gradient_checkpointing=bool(given.get("gradient_checkpointing")),
        reference_pass=settings.kind == "align",
        optimizer="adamw-bf16" if given.get("optimizer") == "adamw-bf16" else "adamw",
        weights=given.get("weights") or "fp32",
        update_in_backward=bool(given.get("update_in_backward")),
    )


def _tokens(given: Mapping[str, Any]) -> int | None:
    """Tokens of a stage; of preferences, of all its steps."""
    tokens: int | None = given.get("tokens")
    return None if tokens is None else tokens * len(given.get("steps", [None]))
