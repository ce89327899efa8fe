"""The multiple-choice task made from held-out documentation.

Given a function's name and how its docstring begins, which of four sentences comes next? The three others
are later sentences of the same docstring, or where these are too few, of the same module: the topic and the
words do not tell, what was just said does. Others of about the right one's length are taken, so that length
does not tell either.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dusk.evaluate.tasks_documents import in_turn

FIELDS = ("text", "source", "module", "name")

_CHOICES = 4
_LONGEST_HEAD = 400  # characters
_SENTENCE_LENGTHS = range(25, 161)  # characters
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'(])")
_NO_PROSE = re.compile(r"^\s|^[-=~*_.:>#|+]|^\w+ ?: |^\w+:$|::$", re.MULTILINE)


def make_items(
    rows: Iterable[Mapping[str, Any]], *, task: str, items: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Up to `items` questions {"head", "choices", "right", "source", "name"} under the task's name."""
    pages = [(row, sentences(row["text"])) for row in rows]
    modules: dict[tuple[str, str], list[str]] = {}
    for row, found in pages:
        modules.setdefault((row["source"], row["module"]), []).extend(found)
    asked = [
        question
        for row, found in pages
        if (question := _question(row, found, modules[row["source"], row["module"]], seed)) is not None
    ]
    return {task: in_turn(asked, [q["source"] for q in asked], [q["head"] for q in asked], seed)[:items]}


def sentences(text: str) -> list[str]:
    """The sentences of a docstring's prose, from its beginning up to the first paragraph that is none."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if _NO_PROSE.search(paragraph):
            break
        found += _SENTENCE_END.split(" ".join(paragraph.split()))
    return found


def _question(
    row: Mapping[str, Any], found: Sequence[str], module: Sequence[str], seed: int
) -> dict[str, Any] | None:
    """Which sentence comes second, after name and first; None where the page gives no fair question."""
    if len(found) < 2 or not _fit(found[1]) or len(found[0]) > _LONGEST_HEAD:
        return None
    right = found[1]
    others = _nearest_in_length(right, [s for s in found[2:] if _fit(s)], shown=found[:2])
    elsewhere = [s for s in module if _fit(s) and s not in found]
    others += _nearest_in_length(right, elsewhere, shown=[*found[:2], *others])
    if len(others) < _CHOICES - 1:
        return None
    choices = sorted([right, *others[: _CHOICES - 1]], key=lambda s: _digest(f"{seed}:{right}:{s}"))
    return {
        "head": f"{row['name']}\n\n{found[0]}",
        "choices": choices,
        "right": choices.index(right),
        "source": row["source"],
        "name": row["name"],
    }


def _fit(sentence: str) -> bool:
    return len(sentence) in _SENTENCE_LENGTHS and sentence[-1] in ".!?"


def _nearest_in_length(right: str, others: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Distinct sentences that are not on view already, those of the right one's length first."""
    distinct = [sentence for sentence in dict.fromkeys(others) if sentence not in shown]
    return sorted(distinct, key=lambda sentence: abs(len(sentence) - len(right)))[: _CHOICES - 1]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def process_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Accuracy and the probability of the right choice from the choices' log-likelihoods in nats.

    `choice_probability` is the softmax of the log-likelihoods; `choice_probability_norm` that of the
    log-likelihoods brought to the choices' mean length in characters. `acc` and `acc_norm` are as in the
    harness.
    """
    logs = [log for log, _ in results]
    lengths = [len(choice) for choice in doc["choices"]]
    mean_length = sum(lengths) / len(lengths)
    normed = [log * mean_length / length for log, length in zip(logs, lengths, strict=True)]
    right = doc["right"]
    return {
        "acc": float(logs.index(max(logs)) == right),
        "acc_norm": float(normed.index(max(normed)) == right),
        "choice_probability": softmax(logs)[right],
        "choice_probability_norm": softmax(normed)[right],
    }


def softmax(logs: Sequence[float]) -> list[float]:
    """Probabilities in proportion to exp(log)."""
    top = max(logs)
    powers = [math.exp(log - top) for log in logs]
    return [power / sum(powers) for power in powers]
