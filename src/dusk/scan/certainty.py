"""How sure a ranking of maps is: the documents drawn again, the same ones for every map."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dusk.errors import DataError

Array = npt.NDArray[np.float64]

RESAMPLES = 4000
LEAST_DOCUMENTS = 20
LEAST_TOKENS = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Ranking:
    """Of M maps on the same documents; the loss is in nats a token.

    loss (M,); error (M,): the standard error of loss - reference; best (M,): the share of resamples in which a
    map has the lowest loss; lead: by how much the first beats the second, with the interval of that.
    tokens_needed: about how many tokens would tell the first two apart, None where the text does already.
    """

    loss: Array
    error: Array
    best: Array
    order: tuple[int, ...]
    lead: float
    lead_low: float
    lead_high: float
    tokens_needed: int | None


def require_enough(documents: int, tokens: int) -> None:
    """Raises `DataError` for a text on which no difference between maps could be seen."""
    problems = []
    if documents < LEAST_DOCUMENTS:
        problems.append(f"it has {documents} documents, and {LEAST_DOCUMENTS} are the least")
    if tokens < LEAST_TOKENS:
        problems.append(f"it has {tokens:,} tokens to predict, and {LEAST_TOKENS:,} are the least")
    if problems:
        raise DataError(
            "The text is too short for a sound estimate:",
            problems=problems,
            remedy="Give more rows of held-out text of the kind the base was trained on.",
        )


def rank(nats: Sequence[Array], reference: Array, tokens: npt.NDArray[np.int64], *, seed: int = 0) -> Ranking:
    """Rank maps by their loss.

    nats: for each map -log p of each document, (D,); reference: the same of the base; tokens (D,): what is
    predicted in each. Documents are drawn with replacement; the interval is the percentile one at 95 %.
    """
    table = np.stack(nats)  # (M, D)
    loss = table.sum(axis=1) / tokens.sum()
    order = tuple(int(i) for i in np.argsort(loss, kind="stable"))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)), size=RESAMPLES)  # (R, D)
    again = drawn @ table.T / (drawn @ tokens)[:, None]  # (R, M)
    base = drawn @ reference / (drawn @ tokens)
    best = np.bincount(again.argmin(axis=1), minlength=len(loss)) / RESAMPLES
    first, second = order[0], order[min(1, len(order) - 1)]
    gaps = again[:, second] - again[:, first]
    low, high = np.quantile(gaps, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    lead = float(loss[second] - loss[first])
    return Ranking(
        loss,
        (again - base[:, None]).std(axis=0, ddof=1),
        best,
        order,
        lead,
        float(low),
        float(high),
        _tokens_needed(lead, float(high - low) / 2, int(tokens.sum()))
        if low <= 0 and len(order) > 1
        else None,
    )


def _tokens_needed(lead: float, half_width: float, tokens: int) -> int | None:
    """The interval narrows with the root of the text; None where the lead is nothing at all."""
    return round(tokens * (half_width / lead) ** 2) if lead > 0 else None
