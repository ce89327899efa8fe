"""Causal attention of a padded block in bf16 on a processor: forward by SDPA, backward by matrix products.

SDPA's kernel is the fastest way forward and keeps no scores, but its backward pass is slow in bf16 there. The
scores are therefore made again (FlashAttention, arXiv 2205.14135, algorithm 4), for as many queries at a time as
leave out most of what is not seen.
"""

from typing import Any

import torch
from torch import Tensor

from dusk.train.shapes import filled

_CHUNK = 128  # queries whose scores exist at once


class _Attention(torch.autograd.Function):
    """Query (B, heads, L, size), key and value (B, key heads, L, size) -> as the query."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float | None
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.window = window
        ctx.scale = query.shape[-1] ** -0.5 if scale is None else scale
        return causal_sdpa(query, key, value, window=window, scale=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: gradient checkpointing makes them again for each reading
        whole = saved[0].shape
        query, key, value, gradient = map(filled, (*saved, gradients[0]))
        blocks, groups, length, size = key.shape
        shape = (blocks, groups, -1, length, size)  # query heads by the key head that they share
        queries, outs = (query * ctx.scale).view(shape), gradient.reshape(shape)
        to_query = torch.empty_like(queries)
        wide = torch.promote_types(key.dtype, torch.float32)  # what is summed over chunks
        to_key, to_value = torch.zeros(key.shape, dtype=wide), torch.zeros(key.shape, dtype=wide)
        for begin in range(0, length, _CHUNK):
            end = min(begin + _CHUNK, length)
            first = 0 if ctx.window is None else max(0, begin + 1 - ctx.window)
            rows, out = (states[..., begin:end, :].flatten(2, 3) for states in (queries, outs))
            keys, values = key[:, :, first:end], value[:, :, first:end]
            unseen = torch.zeros(end - begin, end - first, dtype=query.dtype)
            unseen.masked_fill_(~seen(range(begin, end), range(first, end), ctx.window), float("-inf"))
            scores = (rows @ keys.mT).unflatten(2, (-1, end - begin))
            weights = scores.add_(unseen).softmax(-1).flatten(2, 3)
            slope = torch._softmax_backward_data(out @ values.mT, weights, -1, weights.dtype)
            to_query[..., begin:end, :] = (slope @ keys).unflatten(2, (-1, end - begin))
            to_key[:, :, first:end] += slope.mT @ rows
            to_value[:, :, first:end] += weights.mT @ out
        by_query = to_query.mul_(ctx.scale).view(query.shape)
        by_key, by_value = to_key.to(key.dtype), to_value.to(value.dtype)
        own = (states[..., : whole[2], :] for states in (by_query, by_key, by_value))
        return *own, None, None


def attention_by_products(
    query: Tensor, key: Tensor, value: Tensor, *, window: int | None, scale: float | None
) -> Tensor:
    """Causal attention of whole rows: (B, heads, L, size) and key heads -> as the query."""
    return _Attention.apply(query, key, value, window, scale)  # type: ignore[no-any-return, no-untyped-call]


def causal_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window: int | None,
    scale: float | None,
    dropout: float = 0.0,
) -> Tensor:
    """The same through SDPA, forward and backward."""
    length = range(query.shape[2])
    band = None if window is None or window >= len(length) else seen(length, length, window, query.device)
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=band,
        is_causal=band is None,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def seen(queries: range, keys: range, window: int | None, device: torch.device | None = None) -> Tensor:
    """True where a query sees a key: itself and the tokens before it, window - 1 of them at most."""
    q, k = (torch.arange(some.start, some.stop, device=device) for some in (queries, keys))
    distance = q[:, None] - k
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)
