"""Token stores, and packing them into batches without padding.

A store is flat: the tokens of all documents one behind the other, offsets between them, and one mask that says
which tokens are trained on. A *unit* is what must stay in one batch: one document, or a preference pair,
which is three: the prompt once, and the two answers that branch off from it. Batches are bins of units, filled
best-fit, so that almost nothing is left empty.
"""

import bisect
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dusk.errors import DataError

_OPEN_BINS = 64  # more fill a little better and mix the order less
_DOCUMENTS_AT_ONCE = 1024  # a store may be larger than memory


@dataclass(frozen=True)
class TokenDocument:
    """The tokens of one document, as they go into a store.

    `trained` says which of them are predicted; `text_bytes` is the size of the text behind them, for bits per
    byte; `domain` groups documents in evaluations.
    """

    ids: Sequence[int]
    trained: Sequence[bool]
    text_bytes: int = 0
    domain: str = ""


@dataclass(frozen=True)
class TokenStore:
    """Documents as flat arrays.

    tokens (T,) int32, trained (T,) bool, offsets (D+1,) int64, text_bytes (D,) int64, domain (D,) int32 into
    `domains`. Where `documents_per_unit` is above 1, a unit's first document is the prefix of its others, its
    branches: each of them goes on from the prefix and knows nothing of the other branches. Preference pairs have
    3: prompt, chosen, rejected. A prefix may be empty.
    """

    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    text_bytes: npt.NDArray[np.int64]
    domain: npt.NDArray[np.int32]
    domains: tuple[str, ...]
    documents_per_unit: int = 1

    @property
    def documents(self) -> int:
        """How many documents the store holds."""
        return len(self.offsets) - 1

    @property
    def units(self) -> int:
        """How many units: documents, or pairs of them."""
        return self.documents // self.documents_per_unit

    def unit_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each unit, (units,)."""
        return np.diff(self.offsets[:: self.documents_per_unit])

    def unit_documents(self, unit: int) -> range:
        """The documents of one unit."""
        return range(unit * self.documents_per_unit, (unit + 1) * self.documents_per_unit)

    def predicted(self) -> npt.NDArray[np.int64]:
        """For each document the tokens that are predicted: what is trained, but for its first, (D,)."""
        found = np.empty(self.documents, np.int64)
        for begin in range(0, self.documents, _DOCUMENTS_AT_ONCE):
            offsets = self.offsets[begin : begin + _DOCUMENTS_AT_ONCE + 1]
            trained = self.trained[offsets[0] : offsets[-1]]
            inside = offsets - offsets[0]
            some = np.diff(np.concatenate([[0], np.cumsum(trained, dtype=np.int64)])[inside])
            some[some > 0] -= trained[inside[:-1][some > 0]]
            found[begin : begin + len(some)] = some
        return found

    def thinned(self, tokens: int) -> "TokenStore":
        """At most about `tokens` of it: every k-th unit, so that all parts of the data are in it."""
        every = -(-self.tokens.size // tokens)
        return self if every <= 1 else self.of_units(range(0, self.units, every))

    def of_units(self, units: Sequence[int]) -> "TokenStore":
        """A store of these units alone."""
        chosen = [document for unit in units for document in self.unit_documents(unit)]
        spans = [slice(self.offsets[d], self.offsets[d + 1]) for d in chosen]
        lengths = np.diff(self.offsets)[chosen]
        return TokenStore(
            tokens=np.concatenate([self.tokens[span] for span in spans]),
            trained=np.concatenate([self.trained[span] for span in spans]),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            text_bytes=self.text_bytes[chosen],
            domain=self.domain[chosen],
            domains=self.domains,
            documents_per_unit=self.documents_per_unit,
        )

    def digest(self) -> str:
        """SHA-256 of all that training sees of the store, 16 hex digits."""
        total = hashlib.sha256()
        for array in (self.tokens, self.trained, self.offsets):
            total.update(np.ascontiguousarray(array).data)
        return total.hexdigest()[:16]


def build_store(documents: Iterable[TokenDocument], *, documents_per_unit: int = 1) -> TokenStore:
    """Lay documents one behind the other.

    Raises:
        DataError: there is no document.
    """
    kept = list(documents)
    if not kept:
        raise DataError(
            "the data hold no document to train on", remedy="Check the files, and what was left out."
        )
    domains = tuple(sorted({document.domain for document in kept}))
    number = {domain: index for index, domain in enumerate(domains)}
    return TokenStore(
        tokens=np.concatenate([np.asarray(document.ids, np.int32) for document in kept]),
        trained=np.concatenate([np.asarray(document.trained, np.bool_) for document in kept]),
        offsets=np.concatenate([[0], np.cumsum([len(document.ids) for document in kept])]).astype(np.int64),
        text_bytes=np.array([document.text_bytes for document in kept], np.int64),
        domain=np.array([number[document.domain] for document in kept], np.int32),
        domains=domains,
        documents_per_unit=documents_per_unit,
    )


def cut(document: TokenDocument, longest: int) -> list[TokenDocument]:
    """Cut a document into pieces of at most `longest` tokens; its bytes are shared out by tokens.

    Each piece after the first begins with the last token of the one before it, as context that is not trained,
    so that every token keeps a prediction.
    """
    if len(document.ids) <= longest:
        return [document]
    pieces, begin, total = [], 0, len(document.ids)
    while begin < total - 1 or begin == 0:
        end = min(begin + longest, total)
        trained = [False, *document.trained[begin + 1 : end]] if begin else list(document.trained[:end])
        told = begin + 1 if begin else 0  # what the piece before has not
        share = document.text_bytes * end // total - document.text_bytes * told // total
        pieces.append(TokenDocument(document.ids[begin:end], trained, share, document.domain))
        begin = end - 1
    return pieces


def best_fit(lengths: npt.NDArray[np.int64], capacity: int, order: npt.NDArray[np.int64]) -> list[list[int]]:
    """Pack units into bins of `capacity` tokens, in about the given order.

    Each unit goes where it leaves the least room among the open bins; the fullest is closed when too many are
    open. A unit longer than the capacity gets a bin of its own. Every unit lands in exactly one bin.
    """
    open_bins: list[tuple[int, int]] = []  # (room left, bin), sorted
    bins: list[list[int]] = []
    for unit in order.tolist():
        length = int(lengths[unit])
        at = bisect.bisect_left(open_bins, (length, -1))
        if at < len(open_bins):
            room, bin_ = open_bins.pop(at)
        else:
            room, bin_ = max(capacity, length), len(bins)
            bins.append([])
            if len(open_bins) >= _OPEN_BINS:
                open_bins.pop(0)
        bins[bin_].append(unit)
        if room > length:
            bisect.insort(open_bins, (room - length, bin_))
    return bins


def plan_batches(
    store: TokenStore, *, capacity: int, seed: int, tokens: int | None = None, epochs: int = 1
) -> list[list[int]]:
    """The batches of a whole run, as lists of units: `epochs` times over the data, or until `tokens` are reached.

    Every epoch has an order of its own, drawn from the seed; the same arguments give the same plan everywhere.
    """
    lengths = store.unit_lengths()
    plan: list[list[int]] = []
    planned = epoch = 0
    while planned < tokens if tokens is not None else epoch < epochs:
        order = np.random.default_rng([seed, epoch]).permutation(store.units)
        bins = best_fit(lengths, capacity, order)
        np.random.default_rng([seed, epoch, 1]).shuffle(bins)
        for bin_ in bins:
            if tokens is not None and planned >= tokens:
                break
            plan.append(bin_)
            planned += int(lengths[bin_].sum())
        epoch += 1
    return plan
