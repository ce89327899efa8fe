"""Several seeds of one recipe, pooled: what their report says, and the numbers behind it."""

from dusk.report.seeds.page import render_seeds
from dusk.report.seeds.runs import SEEDS, Seeds, are_seeds, read_seeds, seed_folders
from dusk.report.seeds.summary import summary_of

__all__ = ["SEEDS", "Seeds", "are_seeds", "read_seeds", "render_seeds", "seed_folders", "summary_of"]
