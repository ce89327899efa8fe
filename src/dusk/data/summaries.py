"""What instructions ask about a documentation text: its name, its first sentences, its parameters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SUMMARY_LENGTHS = range(25, 241)  # characters
_LONGEST_NAME = 80
_ENDS = {".", "!"}

_SIGNATURE = re.compile(r"^[\w.]+\(.*\)(\s*->.*)?$", re.DOTALL)
_NO_PROSE = re.compile(r"^\s|^[-=~*_.:>#|+]|^\w+ ?: |^\w+:$|::$|^\.\. ", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])")
_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]+?)(?:\s*<[^`>]*>)?`")  # :func:`name <target>`
_MARKS = re.compile(r"``([^`]+)``|(?<!\w)`([^`]+)`_?(?!\w)|\*\*([^*]+)\*\*|(?<![*\w])\*(\w[^*]*)\*(?!\w)")
_FOOTNOTE = re.compile(r"\s*\[\w+\]_")

_NUMPY_SECTION = re.compile(r"^Parameters\n-{3,}\n(.*?)(?=^\w[^\n]*\n-{3,}$|\Z)", re.DOTALL | re.MULTILINE)
_NUMPY_ITEM = re.compile(r"^(\*{0,2}\w+(?:, ?\*{0,2}\w+)*) ?: ", re.MULTILINE)
_GOOGLE_SECTION = re.compile(r"^(?:Args|Arguments|Parameters):\n(.*?)(?=^\S|\Z)", re.DOTALL | re.MULTILINE)
_GOOGLE_ITEM = re.compile(r"^    (\*{0,2}\w+)(?: \([^)]*\))?: ", re.MULTILINE)


@dataclass(frozen=True)
class Summary:
    """A documentation text in short.

    Attributes:
        name: what a reader calls it, without private modules (`numpy.linalg.norm`).
        module: the public module it is from.
        package: the package it is from.
        what: "module", "class" or "function".
        first: the first sentence, as plain text.
        more: the first sentence and the next one where that is short enough, too.
        parameters: their names, in order.
    """

    name: str
    module: str
    package: str
    what: str
    first: str
    more: str
    parameters: tuple[str, ...]


def summary(document: Mapping[str, Any]) -> Summary | None:
    """The summary of a document {"text", "source", "module", "name"}; None where it has none to ask about."""
    name = public_name(document["module"], document["name"])
    found = sentences(document["text"])
    if not name or len(name) > _LONGEST_NAME or not found or not _tells(found[0], name):
        return None
    more = " ".join(found[:2]) if found[:2][-1][-1:] in _ENDS else found[0]
    return Summary(
        name=name,
        module=public_module(document["module"]),
        package=document["source"],
        what=_what(document),
        first=found[0],
        more=more if len(more) in _SUMMARY_LENGTHS else found[0],
        parameters=parameters(document["text"]),
    )


def public_module(module: str) -> str:
    """A module's name without its private parts: mostly where its content is imported from."""
    public = [part for part in module.split(".") if not part.startswith("_")]
    return ".".join(public) or module


def public_name(module: str, name: str) -> str:
    """The name of what is defined in a module, by its public module."""
    inside = name.removeprefix(module)
    return public_module(module) + inside if inside != name else name


def sentences(text: str) -> list[str]:
    """The sentences of the first paragraph of prose, without markup; signatures before it are passed over."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if _SIGNATURE.match(paragraph):
            continue
        if _NO_PROSE.search(paragraph):
            return []
        return [_plain(sentence) for sentence in _SENTENCE_END.split(" ".join(paragraph.split()))]
    return []


def parameters(text: str) -> tuple[str, ...]:
    """The names of the parameters that a docstring in NumPy's or Google's style lists."""
    for section, item in ((_NUMPY_SECTION, _NUMPY_ITEM), (_GOOGLE_SECTION, _GOOGLE_ITEM)):
        found = section.search(text)
        if found:
            names = (name.strip() for line in item.findall(found[1]) for name in line.split(","))
            return tuple(name for name in names if name != "self")
    return ()


def _plain(sentence: str) -> str:
    """A sentence without reStructuredText's marks."""
    without_roles = _FOOTNOTE.sub("", _ROLE.sub(r"\1", sentence))
    return _MARKS.sub(
        lambda found: next(group for group in found.groups() if group is not None), without_roles
    )


def _tells(sentence: str, name: str) -> bool:
    """Whether a sentence is whole, of a fair length, and more than the name in other letters."""
    whole = sentence[-1:] in _ENDS and sentence[:1].isupper() and len(sentence) in _SUMMARY_LENGTHS
    words = {word for word in re.findall(r"[a-z]+", sentence.lower()) if len(word) > 3}
    return whole and len(words - set(re.findall(r"[a-z]+", name.lower()))) >= 2


def _what(document: Mapping[str, Any]) -> str:
    if document["name"] == document["module"]:
        return "module"
    return "class" if document["name"].rpartition(".")[2].lstrip("_")[:1].isupper() else "function"
