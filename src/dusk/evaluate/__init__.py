"""Evaluation of models through lm-evaluation-harness, item by item, comparable in pairs.

Nothing here imports torch or the harness until a model is evaluated.
"""

from dusk.evaluate.bootstrap import Difference, PairedItems, paired_bootstrap, standard_error
from dusk.evaluate.items import EntryItems, Item, Score, read_entries
from dusk.evaluate.results import EvalReport, ModelScores, load_report
from dusk.evaluate.run import evaluate
from dusk.evaluate.suites import Column, Entry, Suite, load_suite, suite_names

__all__ = [
    "Column",
    "Difference",
    "Entry",
    "EntryItems",
    "EvalReport",
    "Item",
    "ModelScores",
    "PairedItems",
    "Score",
    "Suite",
    "evaluate",
    "load_report",
    "load_suite",
    "paired_bootstrap",
    "read_entries",
    "standard_error",
    "suite_names",
]
