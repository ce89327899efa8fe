"""Several runs of different recipes beside each other: one table of all models, their curves in one chart."""

from dusk.report.compared.page import render_compared
from dusk.report.compared.runs import Compared, compare_runs

__all__ = ["Compared", "compare_runs", "render_compared"]
