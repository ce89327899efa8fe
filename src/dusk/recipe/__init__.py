"""Recipes: the whole chain as one file, and the running of it."""

from dusk.recipe.kinds import KINDS, Kind
from dusk.recipe.load import demo_recipe, load_recipe, parse_recipe
from dusk.recipe.outcome import RunReport, StageEvent, StageReport
from dusk.recipe.recipe import Recipe
from dusk.recipe.run import run
from dusk.recipe.settings import StageSettings

__all__ = [
    "KINDS",
    "Kind",
    "Recipe",
    "RunReport",
    "StageEvent",
    "StageReport",
    "StageSettings",
    "demo_recipe",
    "load_recipe",
    "parse_recipe",
    "run",
]
