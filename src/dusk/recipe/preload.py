"""What every stage that trains or evaluates imports: read once, in the process that stages are forked from.

Importing the trainer costs three to nine seconds a process; a fork of the process that has it costs milliseconds.
What is not installed here is left to the stage that needs it, which can say what is missing.
"""

import gc
import importlib
import warnings

from dusk.imports import loading

MODULES = (
    "torch",
    "transformers",
    "transformers.trainer",
    "accelerate",
    "dusk.train",
    "dusk.train.pretrain",
    "dusk.train.sft",
    "dusk.train.align",
    "dusk.evaluate.harness",
    "dusk.evaluate.model",
)


def preload() -> None:
    """Import the heavy modules; an absent one is no error here."""
    with loading(), warnings.catch_warnings(action="ignore"):
        for module in MODULES:
            try:
                importlib.import_module(module)
            except Exception:  # whatever is broken, only the stage that needs it may fail
                continue
    gc.freeze()  # a search for garbage would write to what forks share
