"""Attention over packed documents: linear in the number of documents, and never across them.

Where each document begins and ends, and which prefix it goes on from, reaches the attention function explicitly,
as a `Packing`, because a mask derived from position ids is lost without a word whenever a model is given another
mask or a cache. There are three ways to compute it, alike in what they mean: padded blocks of documents through
SDPA (`blocks.py`), flash attention of ragged rows (`varlen.py`), and flex attention (`flex.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from dusk.errors import CheckpointError
from dusk.train.blocks import Blocks
from dusk.train.flex import Flex
from dusk.train.varlen import Varlen, varlen_serves

NAME = "dusk_packed"

Backend = Literal["blocks", "varlen", "flex"]
_BACKENDS: dict[str, type["Packing"]] = {"blocks": Blocks, "varlen": Varlen, "flex": Flex}
_asked_for: ContextVar[Backend | None] = ContextVar("backend", default=None)


class Packing(Protocol):
    """Where the documents of one packed row lie, as one way of attention wants to know it."""

    @classmethod
    def of(cls, boundaries: Tensor, prefixes: Tensor | None = None) -> "Packing":
        """From boundaries, (documents + 1,), and each document's prefix by number or -1, (documents,)."""
        ...

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
        """Causal attention within each document and its prefix: (T, heads, size) and key heads -> as the query.

        `window`: how many tokens a token sees, itself counted; None for all before it.
        """
        ...


def packing_of(boundaries: Tensor, prefixes: Tensor | None = None) -> Packing:
    """The packing of a row for the backend that `packed` was told; else ragged where it runs, else blocks."""
    chosen = _asked_for.get() or ("varlen" if varlen_serves(boundaries.device) else "blocks")
    return _BACKENDS[chosen].of(boundaries, prefixes)


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
    rows = (_in_compute_dtype(states[0].transpose(0, 1)) for states in (query, key, value))
    return packing.attend(*rows, scale=scaling, window=sliding_window, dropout=dropout)[None], None


def _in_compute_dtype(states: Tensor) -> Tensor:
    """What autocast asks for: rotary embeddings leave queries and keys in float32, values in bf16."""
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def packed(model: PreTrainedModel, backend: Backend | None = None) -> Iterator[None]:
    """Give a transformers model packed attention, and its own attention back at the end.

    No mask function is registered for it, so transformers builds no mask and the packing alone decides.
    Raises CheckpointError where the model does not let its attention be replaced.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    told = _asked_for.set(backend)
    try:
        if model.get_decoder().config._attn_implementation != NAME:
            raise CheckpointError(
                f"{type(model).__name__} has an attention of its own, which would look across documents",
                remedy="dusk trains the architectures that use transformers' AttentionInterface.",
            )
        yield
    finally:
        _asked_for.reset(told)
        model.set_attn_implementation(before)
