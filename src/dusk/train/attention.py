"""Attention over packed documents: linear in the number of documents, and never across them.

Where each document begins and ends reaches the attention function explicitly, as a `Packing`, because a mask
derived from position ids is lost without a word whenever a model is given another mask or a cache. Documents
of about the same length are gathered into one block and attended together, the shorter ones padded with
copies of their own last token; a causal document never sees the padding behind it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from dusk.errors import CheckpointError

NAME = "dusk_packed"
_SHORTEST_BLOCK = 16


@dataclass(frozen=True)
class Packing:
    """Where the documents of one packed row lie.

    slots (P,): for each place in the padded blocks the token that fills it;
    places (T,): for each token its place; blocks: (first place, documents, length) each.
    """

    slots: Tensor
    places: Tensor
    blocks: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, boundaries: Tensor) -> "Packing":
        """From document boundaries, (documents + 1,): 0, the end of the first, ..., the number of tokens."""
        begins, lengths = boundaries[:-1].tolist(), boundaries.diff().tolist()
        by_length: dict[int, list[int]] = {}
        for document, length in enumerate(lengths):
            by_length.setdefault(_block_length(length), []).append(document)
        slots, places = [], torch.empty(int(boundaries[-1]), dtype=torch.long)
        blocks: list[tuple[int, int, int]] = []
        place = 0
        for _, documents in sorted(by_length.items()):
            longest = max(lengths[document] for document in documents)
            blocks.append((place, len(documents), longest))
            for document in documents:
                begin, length = begins[document], lengths[document]
                places[begin : begin + length] = torch.arange(place, place + length)
                slots.append(begin + torch.arange(longest).clamp(max=length - 1))
                place += longest
        device = boundaries.device
        return cls(torch.cat(slots).to(device), places.to(device), tuple(blocks))


def _block_length(length: int) -> int:
    """The class of lengths that are padded together: steps of a quarter of a power of two."""
    step = max(_SHORTEST_BLOCK, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step


class _Gather(torch.autograd.Function):
    """Rows by index, where each source row is asked for once or, in padding, without a gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:  # (N, ...) -> (P, ...)
        ctx.save_for_backward(inverse)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradients[0].index_select(0, inverse), None, None


class _Scatter(torch.autograd.Function):
    """The way back: each token's row out of the padded blocks; padding receives a zero gradient."""

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


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,  # (1, heads, T, head size)
    key: Tensor,  # (1, key heads, T, head size)
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention within each document of a packed row.

    Returns (1, T, heads, head size) and no weights. Raises ValueError where no packing arrived, rather than
    attend across documents, and for attention with a soft cap.
    """
    if packing is None:
        raise ValueError("packed attention was called without a packing; evaluate outside `packed(model)`")
    if kwargs.get("softcap") is not None:
        raise ValueError("packed attention has no soft cap of the scores")
    padded = [
        _Gather.apply(states[0].transpose(0, 1), packing.slots, packing.places)  # type: ignore[no-untyped-call]
        for states in (query, key, value)
    ]
    out = []
    for first, documents, length in packing.blocks:
        q, k, v = (
            states[first : first + documents * length].unflatten(0, (documents, length)).transpose(1, 2)
            for states in padded
        )
        window = sliding_window if sliding_window is not None and sliding_window < length else None
        attended = torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if window is None else _band(length, window, q.device),
            is_causal=window is None,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # (documents, heads, length, head size)
        out.append(attended.transpose(1, 2).flatten(0, 1))
    return _Scatter.apply(torch.cat(out), packing.places)[None], None  # type: ignore[no-untyped-call]


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """True where a query sees a key: itself and the window - 1 tokens before it."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """Give a transformers model packed attention, and its own attention back at the end.

    No mask function is registered for it, so transformers builds no mask and the packing alone decides.
    Raises CheckpointError where the model does not let its attention be replaced.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        if model.get_decoder().config._attn_implementation != NAME:
            raise CheckpointError(
                f"{type(model).__name__} has an attention of its own, which would look across documents",
                remedy="dusk trains the architectures that use transformers' AttentionInterface.",
            )
        yield
    finally:
        model.set_attn_implementation(before)
