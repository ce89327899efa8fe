"""Recipes: the whole chain as one file, and the running of it."""

from .kinds import KINDS, Kind
from .load import load_recipe, parse_recipe
from .outcome import RunReport, StageEvent, StageReport
from .recipe import Recipe
from .run import run
from .settings import StageSettings

__all__ = [
    "KINDS",
    "Kind",
    "Recipe",
    "RunReport",
    "StageEvent",
    "StageReport",
    "StageSettings",
    "load_recipe",
    "parse_recipe",
    "run",
]
