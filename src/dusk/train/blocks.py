"""Packed attention through SDPA: documents of about the same length are one padded block.

The shorter ones are padded with copies of their own last token; a causal document never sees the padding behind
it. A document that goes on from a prefix is attended together with the prefix, as if it were alone: only the
attention of a prefix is computed for each of its branches, all else once.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from dusk.train.products import attention_by_products, causal_sdpa

_SHORTEST_BLOCK = 16


@dataclass(frozen=True)
class Blocks:
    """Where the documents of one packed row lie, gathered into padded blocks.

    slots (P,): for each place in the padded blocks the token that fills it;
    places (T,): for each token the place where its attention is taken from;
    again (2, R): tokens of prefixes, and their further places in the second branch and beyond;
    blocks: (documents, length) each, one behind the other.
    """

    slots: Tensor
    places: Tensor
    again: Tensor
    blocks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, boundaries: Tensor, prefixes: Tensor | None = None) -> Self:
        """See `Packing.of`."""
        ends = boundaries.tolist()
        sequences = _sequences(ends, [-1] * (len(ends) - 1) if prefixes is None else prefixes.tolist())
        by_length: dict[int, list[Tensor]] = {}
        for tokens in sequences:
            by_length.setdefault(_block_length(len(tokens)), []).append(tokens)
        slots, blocks = [], []
        places, again = torch.full((ends[-1],), -1), []
        place = 0
        for _, members in sorted(by_length.items()):
            longest = max(len(tokens) for tokens in members)
            blocks.append((len(members), longest))
            for tokens in members:
                here = torch.arange(place, place + len(tokens))
                taken = places[tokens] >= 0
                if taken.any():
                    again.append(torch.stack([tokens[taken], here[taken]]))
                places[tokens[~taken]] = here[~taken]
                slots += [tokens, tokens[-1:].expand(longest - len(tokens))]
                place += longest
        device = boundaries.device
        repeated = torch.cat(again, 1) if again else torch.empty(2, 0, dtype=torch.long)
        return cls(torch.cat(slots).to(device), places.to(device), repeated.to(device), tuple(blocks))

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float | None,
        window: int | None,
        dropout: float,
    ) -> Tensor:
        """See `Packing.attend`."""
        sizes = [documents * length for documents, length in self.blocks]
        parts = zip(
            *(  # split, since its backward pass joins the gradients once, where each slice's fills a whole row
                _Gather.apply(states, self.slots, self.places, self.again).split(sizes)  # type: ignore[no-untyped-call]
                for states in (query, key, value)
            ),
            strict=True,
        )
        out = []
        for part, block in zip(parts, self.blocks, strict=True):
            q, k, v = (states.unflatten(0, block).transpose(1, 2) for states in part)
            if q.dtype == torch.bfloat16 and q.device.type == "cpu" and not dropout:
                attended = attention_by_products(q, k, v, window=window, scale=scale)
            else:
                attended = causal_sdpa(q, k, v, window=window, scale=scale, dropout=dropout)
            out.append(attended.transpose(1, 2).flatten(0, 1))
        return _Scatter.apply(torch.cat(out), self.places)  # type: ignore[no-any-return, no-untyped-call]


def _sequences(ends: list[int], prefixes: list[int]) -> list[Tensor]:
    """The tokens that are attended together: each document with its prefix; a prefix alone is in its branches."""
    own = [torch.arange(begin, end) for begin, end in pairwise(ends)]
    shared = set(prefixes)
    return [
        torch.cat([own[prefix], tokens]) if prefix >= 0 else tokens
        for document, (tokens, prefix) in enumerate(zip(own, prefixes, strict=True))
        if document not in shared
    ]


def _block_length(length: int) -> int:
    """The class of lengths that are padded together: steps of a quarter of a power of two."""
    step = max(_SHORTEST_BLOCK, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step


class _Gather(torch.autograd.Function):
    """Rows by index. Each source row has one place, a prefix's row further ones; padding has no gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, again: Tensor) -> Tensor:
        # (N, ...) -> (P, ...)
        ctx.save_for_backward(inverse, again)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, again = ctx.saved_tensors
        total = gradients[0].index_select(0, inverse)
        if again.shape[1]:
            total.index_add_(0, again[0], gradients[0].index_select(0, again[1]))
        return total, None, None, None


class _Scatter(torch.autograd.Function):
    """The way back: each token's row out of the padded blocks; what is not taken receives a zero gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:  # (P, ...) -> (T, ...)
        ctx.save_for_backward(places)
        ctx.slots = rows.shape[0]
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        padded = gradients[0].new_zeros((ctx.slots, *gradients[0].shape[1:]))
        return padded.index_copy_(0, places, gradients[0]), None
