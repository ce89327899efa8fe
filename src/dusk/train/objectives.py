"""The objectives: what is made small, given the hidden states of one packed batch.

Next token and completion only are one objective, since the labels already say which tokens are trained.
The preference objective stands in `preference.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from dusk.train.attention import packing_of
from dusk.train.batch import Batch
from dusk.train.loss import IGNORED, summed_cross_entropy


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
    out = model.get_decoder()(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        use_cache=False,
        packing=packing_of(batch["boundaries"], batch["prefixes"]),
    )
    return out.last_hidden_state[0]  # type: ignore[no-any-return]


class NextToken:
    """Mean cross-entropy in nats over the trained tokens: pretraining and instruction tuning."""

    def weight(self, batch: Batch) -> int:
        """Trained tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def __call__(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed cross-entropy; no further metrics."""
        head = model.get_output_embeddings().weight
        return summed_cross_entropy(hidden_states(model, batch), head, batch["labels"][0]), {}
