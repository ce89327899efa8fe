"""Log-probabilities and cross-entropy from hidden states, without the logits of a whole batch.

Logits are made for a chunk of rows at a time: a batch of N rows and a vocabulary of V would need N x V floats
twice over, more than the rest of a small model's step. Losses and sums are float32 also where the hidden
states are bf16 (float64 for float64).
"""

from typing import Any

import torch
from torch import Tensor

from dusk.train.shapes import filled

IGNORED = -100
CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits that exist at once: what stays in a processor's cache; large products for a GPU, half a gigabyte."""


def _in_compute_dtype(hidden: Tensor) -> Tensor:
    """Hidden states in the type that autocast asks for; the last norm leaves them in float32.

    The functions below make their products themselves, forward and backward, out of autocast's sight.
    """
    device = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunk_rows(head: Tensor) -> int:
    return max(64, CHUNK_ELEMENTS.get(head.device.type, CHUNK_ELEMENTS["cpu"]) // head.shape[0])


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradient is made along with the loss, while a chunk's probabilities are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        # hidden (N, D), head (V, D), labels (N,) -> ()
        weight = head.to(hidden.dtype)
        to_hidden = torch.empty_like(hidden)
        to_head = torch.zeros_like(head, dtype=_wide(hidden)) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=_wide(hidden), device=hidden.device)
        rows = _chunk_rows(head)
        for begin in range(0, hidden.shape[0], rows):
            states, wanted = filled(hidden[begin : begin + rows]), labels[begin : begin + rows, None]
            count = len(wanted)
            logits = (states @ weight.T)[:count].to(total.dtype)
            logits -= logits.amax(1, keepdim=True)
            total -= logits.gather(1, wanted).sum()
            sums = logits.exp_().sum(1, keepdim=True)
            total += sums.log().sum()
            logits /= sums
            logits.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=logits.dtype))
            slope = filled(logits.to(hidden.dtype))
            to_hidden[begin : begin + rows] = (slope @ weight)[:count]
            if to_head is not None:
                to_head.add_(slope.T @ states)
        ctx.save_for_backward(to_hidden, None if to_head is None else to_head.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        to_hidden, to_head = ctx.saved_tensors
        by_hidden = to_hidden * gradients[0].to(to_hidden.dtype)
        return by_hidden, None if to_head is None else to_head * gradients[0].to(to_head.dtype), None


class _LogProbabilities(torch.autograd.Function):
    """One log-probability a row; the backward pass makes the logits again, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        # hidden (N, D), head (V, D), labels (N,) -> (N,)
        ctx.save_for_backward(hidden, head, labels)
        weight, rows = head.to(hidden.dtype), _chunk_rows(head)
        out = torch.empty(hidden.shape[0], dtype=_wide(hidden), device=hidden.device)
        for begin in range(0, hidden.shape[0], rows):
            wanted = labels[begin : begin + rows, None]
            logits = (filled(hidden[begin : begin + rows]) @ weight.T)[: len(wanted)].to(out.dtype)
            out[begin : begin + rows] = logits.log_softmax(1).gather(1, wanted)[:, 0]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden, head, labels = ctx.saved_tensors
        (gradient,) = gradients
        weight, rows = head.to(hidden.dtype), _chunk_rows(head)
        to_hidden = torch.empty_like(hidden)
        to_head = torch.zeros_like(head, dtype=_wide(hidden)) if ctx.needs_input_grad[1] else None
        for begin in range(0, hidden.shape[0], rows):
            states, wanted = filled(hidden[begin : begin + rows]), labels[begin : begin + rows, None]
            count, scale = len(wanted), gradient[begin : begin + rows, None]
            slope = (states @ weight.T)[:count].to(scale.dtype).softmax(1).mul_(-scale)
            slope = filled(slope.scatter_add_(1, wanted, scale).to(hidden.dtype))
            to_hidden[begin : begin + rows] = (slope @ weight)[:count]
            if to_head is not None:
                to_head.add_(slope.T @ states)
        return to_hidden, None if to_head is None else to_head.to(head.dtype), None


def summed_cross_entropy(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Sum of -log p(label) in nats over the rows whose label is not IGNORED.

    hidden (N, D), head (V, D), labels (N,) -> scalar float32.
    """
    kept = labels != IGNORED
    if not bool(kept.all()):
        hidden, labels = hidden[kept], labels[kept]
    return _SummedCrossEntropy.apply(_in_compute_dtype(hidden), head, labels)  # type: ignore[no-any-return, no-untyped-call]


def log_probabilities(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """log p(label) in nats of each row: hidden (N, D), head (V, D), labels (N,) -> (N,) float32."""
    return _LogProbabilities.apply(_in_compute_dtype(hidden), head, labels)  # type: ignore[no-any-return, no-untyped-call]
