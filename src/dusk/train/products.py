"""Causal attention of a padded block in bf16 on a processor, by matrix products.

oneDNN multiplies bf16 at the processor's full rate. SDPA's kernel reaches a fifth of it forward where there
is no tile unit (AMX), and is slow backward everywhere. The weights are made for as many queries at a time as
leave out most of what is not seen, and again in the backward pass (FlashAttention, arXiv 2205.14135, algorithm 4).
"""

from collections.abc import Iterator
from functools import lru_cache
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
        if _has_tile_unit():
            return causal_sdpa(query, key, value, window=window, scale=scale)
        return _attended(query, key, value, window, ctx.scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: gradient checkpointing makes them again for each reading
        whole = saved[0].shape
        query, key, value, gradient = map(filled, (*saved, gradients[0]))
        queries, outs = _by_key_head(query * ctx.scale, key), _by_key_head(gradient, key)
        keys, values = key.flatten(0, 1), value.flatten(0, 1)
        to_queries = torch.empty_like(queries)
        wide = torch.promote_types(key.dtype, torch.float32)  # what is summed over chunks
        to_keys, to_values = (torch.zeros(states.shape, dtype=wide) for states in (keys, values))
        for chunk, sight in _chunks(keys.shape[1], ctx.window):
            rows, out = (states[:, :, chunk].flatten(1, 2) for states in (queries, outs))
            weights = _weights(rows, keys, chunk, sight, ctx.window)
            to_weights = torch.bmm(out, values[:, sight].mT)
            slope = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            to_queries[:, :, chunk] = torch.bmm(slope, keys[:, sight]).view_as(to_queries[:, :, chunk])
            to_keys[:, sight] += torch.bmm(slope.mT, rows)
            to_values[:, sight] += torch.bmm(weights.mT, out)
        by_query = to_queries.mul_(ctx.scale).view(query.shape)
        by_key, by_value = (total.to(key.dtype).view(key.shape) for total in (to_keys, to_values))
        own = (states[..., : whole[2], :] for states in (by_query, by_key, by_value))
        return *own, None, None


def attention_by_products(
    query: Tensor, key: Tensor, value: Tensor, *, window: int | None, scale: float | None
) -> Tensor:
    """Causal attention of whole rows: (B, heads, L, size) and key heads -> as the query."""
    return _Attention.apply(query, key, value, window, scale)  # type: ignore[no-any-return, no-untyped-call]


def _has_tile_unit() -> bool:
    """Whether SDPA goes forward through the processor's tile unit, and is faster then than products."""
    return torch.cpu._is_amx_tile_supported()


def _attended(query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float) -> Tensor:
    length = query.shape[2]
    query, key, value = map(filled, (query, key, value))
    queries = _by_key_head(query * scale, key)
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    blocks, heads, rows, size = query.shape
    by_token = query.new_empty(blocks, rows, heads, size)  # as the next product wants them
    out = by_token.unflatten(2, (key.shape[1], -1)).permute(0, 2, 3, 1, 4)  # by key head
    for chunk, sight in _chunks(rows, window):
        weights = _weights(queries[:, :, chunk].flatten(1, 2), keys, chunk, sight, window)
        part = out[..., chunk, :]
        part.copy_(torch.bmm(weights, values[:, sight]).view(part.shape))
    return by_token.transpose(1, 2)[:, :, :length]


def _by_key_head(states: Tensor, key: Tensor) -> Tensor:
    """(B, heads, L, size) -> (B * key heads, heads of each, L, size)."""
    of_each = states.shape[1] // key.shape[1]
    return states.reshape(-1, of_each, *states.shape[2:]).contiguous()


def _chunks(length: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Queries in order, and the keys that some of them see."""
    for begin in range(0, length, _CHUNK):
        end = min(begin + _CHUNK, length)
        yield slice(begin, end), slice(0 if window is None else max(0, begin + 1 - window), end)


def _weights(rows: Tensor, keys: Tensor, chunk: slice, sight: slice, window: int | None) -> Tensor:
    """softmax(rows keys^T) over what is seen: rows (N, heads * queries, size), keys (N, L, size)."""
    scores = torch.bmm(rows, keys[:, sight].mT)
    all_see_before = window is None or chunk.stop <= window
    begin = chunk.start if all_see_before else sight.start
    unseen = _unseen(chunk.start - begin, chunk.stop - begin, window, scores.dtype)
    scores.unflatten(1, (-1, len(unseen)))[..., begin - sight.start :] += unseen
    return scores.softmax(-1)


@lru_cache(maxsize=64)
def _unseen(first: int, end: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """What to add to the scores of the last queries, from the first on, against all keys before the end."""
    sight = seen(range(first, end), range(end), window)
    return torch.zeros(sight.shape, dtype=dtype).masked_fill_(~sight, float("-inf"))


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
