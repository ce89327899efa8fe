"""Packed attention through flex attention: one compiled kernel whose block mask says who sees whom.

For GPUs without flash attention and for float32 there. On a CPU it runs too, and the tests hold it to the others.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


@dataclass(frozen=True)
class Flex:
    """For each token its document, its document's prefix (or -1) and its position, (T,) each."""

    document: Tensor
    prefix: Tensor
    position: Tensor
    masks: dict[int | None, BlockMask]  # by window, made when first asked for

    @classmethod
    def of(cls, boundaries: Tensor, prefixes: Tensor | None = None) -> Self:
        """See `Packing.of`."""
        lengths = boundaries.diff()
        number = torch.arange(len(lengths), device=boundaries.device)
        before = torch.full_like(number, -1) if prefixes is None else prefixes
        shift = torch.where(before >= 0, lengths[before], 0) - boundaries[:-1]
        document = number.repeat_interleave(lengths)
        position = torch.arange(len(document), device=document.device) + shift[document]
        return cls(document, before[document], position, {})

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
        """See `Packing.attend`. Raises ValueError for dropout, which flex attention has not."""
        if dropout:
            raise ValueError("flex attention has no dropout; set attention_dropout to 0")
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        q, k, v = (states.transpose(0, 1)[None] for states in (query, key, value))
        attended: Tensor = _compiled(query.device.type)(
            q, k, v, block_mask=self.masks[window], scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return attended[0].transpose(0, 1)

    def _mask(self, window: int | None) -> BlockMask:
        tokens = len(self.document)

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = (self.document[query] == self.document[key]) | (self.prefix[query] == self.document[key])
            distance = self.position[query] - self.position[key]
            near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            return same & near

        return create_block_mask(sees, None, None, tokens, tokens, device=self.document.device.type)


@cache
def _compiled(device: str) -> Any:
    """Flex attention as a fused kernel on a GPU; elsewhere as it is, dense and slow, which tests can bear."""
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
