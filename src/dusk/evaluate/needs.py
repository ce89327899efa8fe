"""What some of the harness's tasks need besides their data: packages of one of its extras, files of nltk."""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from typing import Any

from dusk.errors import InputError

_PUNKT = "punkt_tab"
_WORDS_COUNTED = "change_case:capital_word_frequency"
"""The one instruction of IFEval whose check parts words by nltk."""


def missing_package(task: str, package: str) -> InputError:
    """The error for a package that a task needs; all that its extra of the harness lacks is told at once."""
    extra, packages = _extra_of(package)
    absent = [name for name in packages if find_spec(name) is None] or [package]
    named = " and ".join(filter(None, [", ".join(absent[:-1]), absent[-1]]))
    verb = "is" if len(absent) == 1 else "are"
    return InputError(
        f"task {task}: needs {named}, which {verb} not installed",
        remedy=f'pip install "lm_eval[{extra}]"' if extra else f"pip install {package}",
    )


def _extra_of(package: str) -> tuple[str, list[str]]:
    """The extra of lm_eval that brings a package, and all that it brings; empty where none does."""
    try:
        lines = requires("lm_eval") or []
    except PackageNotFoundError:
        lines = []
    extras: dict[str, list[str]] = {}
    for line in lines:
        found = re.match(r"([\w.-]+).*extra == [\"']([\w-]+)[\"']", line)
        if found:
            extras.setdefault(found[2], []).append(found[1])
    return next(((extra, names) for extra, names in extras.items() if package in names), ("", []))


def require_word_lists(tasks: Mapping[str, Any]) -> None:
    """Raises InputError where prompts of IFEval are checked by nltk's word list and that is not here.

    The harness fails on it only after the model has answered everything.
    """
    for name, task in tasks.items():
        if "ifeval" not in name:
            continue
        count = sum(_WORDS_COUNTED in _instructions(document) for document in task.task_docs)
        if count and not _has_punkt():
            raise InputError(
                f"task {name}: {count} of its prompts are checked with nltk's data {_PUNKT}, which are not here",
                remedy=f"python -m nltk.downloader {_PUNKT}; or name the folder with tokenizers/{_PUNKT} in "
                "NLTK_DATA.",
            )


def _instructions(document: Mapping[str, Any]) -> Iterable[str]:
    return document.get("instruction_id_list") or ()


def _has_punkt() -> bool:
    import nltk  # lazy: only IFEval needs it

    try:
        nltk.data.find(f"tokenizers/{_PUNKT}")
    except LookupError:
        return False
    return True
