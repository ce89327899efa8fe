"""Packed attention through torch's ragged flash attention (torch.nn.attention.varlen), on a GPU.

Queries are the packed row as it is. Keys are gathered so that each document's own follow those of its prefix;
flash attention aligns its causal mask at the end of the two, which is what a document behind a prefix needs.
Nothing is padded and no query computed twice.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

_OLDEST = (8, 0)  # compute capability that flash attention needs


@dataclass(frozen=True)
class Varlen:
    """A packed row as ragged rows: cumulative lengths of queries and keys, (documents + 1,) int32 each.

    slots (K,): for each key the token that it is of, None where keys are the tokens themselves.
    """

    queries: Tensor
    keys: Tensor
    slots: Tensor | None
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, boundaries: Tensor, prefixes: Tensor | None = None) -> Self:
        """See `Packing.of`."""
        ends = boundaries.tolist()
        own = [torch.arange(begin, end) for begin, end in pairwise(ends)]
        before = [-1] * len(own) if prefixes is None else prefixes.tolist()
        rows = [
            torch.cat([own[prefix], tokens]) if prefix >= 0 else tokens
            for tokens, prefix in zip(own, before, strict=True)
        ]
        lengths = torch.tensor([0, *map(len, rows)])
        return cls(
            boundaries.to(torch.int32),
            lengths.cumsum(0).to(boundaries.device, torch.int32),
            torch.cat(rows).to(boundaries.device) if max(before) >= 0 else None,
            max(map(len, own)),
            int(lengths.max()),
        )

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
        """See `Packing.attend`. Raises ValueError for dropout, which this kernel has not."""
        if dropout:
            raise ValueError("ragged flash attention has no dropout; set attention_dropout to 0")
        from torch.nn.attention.varlen import varlen_attn

        if self.slots is not None:
            key, value = key.index_select(0, self.slots), value.index_select(0, self.slots)
        attended = varlen_attn(
            query,
            key,
            value,
            self.queries,
            self.keys,
            self.longest_query,
            self.longest_key,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(attended, Tensor)
        return attended


def varlen_serves(device: torch.device, dtype: torch.dtype | None = None) -> bool:
    """Whether ragged flash attention runs there; it computes in 16 bits only."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    computed = dtype or (
        torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else torch.float32
    )
    return computed in (torch.bfloat16, torch.float16)
