"""Taking what a row promises out of it, or saying what is missing."""

from collections.abc import Mapping
from typing import Any


class RowError(Exception):
    """A row that lacks what its source promises: an error of the input, unless it is to be skipped."""


class UnwantedError(Exception):
    """A sound row that is not wanted; counted by reason."""


def text_of(fields: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    """A field's text; where it may be `empty`, an absent one counts as such. Raises `RowError`."""
    found = fields.get(name)
    if found is None and empty:
        return ""
    if not isinstance(found, str):
        raise RowError(f"{name} is absent" if found is None else f"{name} is no text")
    if not empty and not found.strip():
        raise RowError(f"{name} is empty")
    return found


def answer_of(fields: Mapping[str, Any], name: str) -> str:
    """An answer's text: a text, or the last of messages, which is the assistant's. Raises `RowError`."""
    found = fields.get(name)
    if not isinstance(found, list):
        return text_of(fields, name)
    last = found[-1] if found and isinstance(found[-1], Mapping) else {}
    if last.get("role") != "assistant" or not isinstance(last.get("content"), str):
        raise RowError(f"{name} does not end with an answer")
    if not last["content"].strip():
        raise RowError(f"{name} is empty")
    return str(last["content"])
