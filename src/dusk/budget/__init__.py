"""Memory, time and energy of a recipe before anything is spent, from a stated cost model; without torch."""

from dusk.budget.cost import Cost, Inference, Memory, Work, cost, inference, memory
from dusk.budget.shape import Shape, read_shape
from dusk.machines import Gpu, Machine, known_gpus, parse_machine

__all__ = [
    "Cost",
    "Gpu",
    "Inference",
    "Machine",
    "Memory",
    "Shape",
    "Work",
    "cost",
    "inference",
    "known_gpus",
    "memory",
    "parse_machine",
    "read_shape",
]
