"""Preference pairs of UltraFeedback's scored answers.

Zephyr (Tunstall et al. 2023, section 4.1): of the answers to a prompt the one of the highest mean score is
chosen, and a random one of the others is rejected. A score is the mean of an answer's ratings (instruction
following, honesty, truthfulness, helpfulness). Here an answer that is scored as high as the best is no
candidate for the rejected one, since the pair would say nothing.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dusk.data.fields import RowError, UnwantedError


@dataclass(frozen=True)
class Scored:
    """An answer and its mean score."""

    text: str
    score: float


@dataclass(frozen=True)
class ScoredPair:
    """The best answer and one of the others."""

    chosen: Scored
    rejected: Scored


def scored_pair(prompt: str, completions: Any, seed: int) -> ScoredPair:
    """The pair of a prompt, the same for the same prompt and seed; raises `RowError` and `UnwantedError`."""
    if not isinstance(completions, list) or not completions:
        raise RowError("completions is absent or empty")
    answers = [found for one in completions if (found := _scored(one)) is not None]
    if len(answers) < 2:
        raise UnwantedError("fewer than two scored answers")
    best = max(answers, key=lambda answer: answer.score)
    others = [answer for answer in answers if answer.score < best.score and answer.text != best.text]
    if not others:
        raise UnwantedError("all answers are scored alike")
    digest = hashlib.blake2b(f"{seed}:{prompt}".encode(), digest_size=8).digest()
    return ScoredPair(best, others[int.from_bytes(digest, "big") % len(others)])


def _scored(completion: Any) -> Scored | None:
    """An answer with the mean of its ratings; None where it is empty or nobody has rated it."""
    if not isinstance(completion, Mapping):
        raise RowError("a completion is no object")
    text, annotations = completion.get("response"), completion.get("annotations")
    if not isinstance(text, str) or not text.strip():
        return None
    ratings = [_rating(one) for one in annotations.values()] if isinstance(annotations, Mapping) else []
    known = [rating for rating in ratings if rating is not None]
    return Scored(text, fmean(known)) if known else None


def _rating(annotation: Any) -> float | None:
    """The number of a rating such as {"Rating": "4"}; None for "N/A"."""
    found = annotation.get("Rating") if isinstance(annotation, Mapping) else None
    try:
        return float(found) if isinstance(found, str | int | float) else None
    except ValueError:
        return None
