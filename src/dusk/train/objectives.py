"""The objectives: what is made small, given the hidden states of one packed batch.

Next token and completion only are one objective, since the labels already say which tokens are trained.
The preference objective stands in `preference.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from dusk.train.attention import packing_of
from dusk.train.batch import Batch
from dusk.train.loss import IGNORED, summed_cross_entropy
from dusk.train.shapes import compiles_by_shape, rows_missing


class Objective(Protocol):
    """A sum over a micro batch and what it is divided by over the whole optimizer step."""

    def weight(self, batch: Batch) -> int:
        """How many items (tokens, pairs) the batch adds to the mean."""
        ...

    def __call__(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of the batch, and sums of further metrics over the same items."""
        ...


@contextmanager
def as_forward(model: PreTrainedModel, function: Callable[[PreTrainedModel, Batch], Any]) -> Iterator[None]:
    """Inside, `model(batch)` is `function(model, batch)`: what is computed with a model is its forward pass.

    Whatever wraps or shards a model does its work around `forward`, the output head's weight included: an
    objective that called the parts of a sharded model from outside would find them in pieces.
    """
    before = model.__dict__.get("forward")
    model.forward = partial(function, model)
    try:
        yield
    finally:
        del model.forward
        if before is not None:
            model.forward = before


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The backbone's last hidden states for a packed batch, (T, D)."""
    tokens, positions, boundaries = batch["input_ids"], batch["position_ids"], batch["boundaries"]
    prefixes, count = batch["prefixes"], tokens.shape[1]
    missing = rows_missing(count) if compiles_by_shape(model.get_output_embeddings().weight) else 0
    if missing:  # one document more, which nothing is asked of
        tokens, positions = pad(tokens, (0, missing)), pad(positions, (0, missing))
        boundaries, prefixes = (
            torch.cat([boundaries, boundaries[-1:] + missing]),
            pad(prefixes, (0, 1), value=-1),
        )
    out = model.get_decoder()(
        input_ids=tokens,
        position_ids=positions,
        use_cache=False,
        packing=packing_of(boundaries, prefixes),
    )
    return out.last_hidden_state[0, :count]  # type: ignore[no-any-return]


class NextToken:
    """Mean cross-entropy in nats over the trained tokens: pretraining and instruction tuning."""

    def weight(self, batch: Batch) -> int:
        """Trained tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def __call__(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed cross-entropy; no further metrics."""
        head = model.get_output_embeddings().weight
        return summed_cross_entropy(hidden_states(model, batch), head, batch["labels"][0]), {}
