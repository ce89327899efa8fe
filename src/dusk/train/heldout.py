"""Held-out loss of a causal model: nats a token, and bits per byte by domain."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from dusk.data.packing import TokenStore, best_fit
from dusk.train.attention import Backend, packed
from dusk.train.batch import packed_batch
from dusk.train.distribution import dealt, summed
from dusk.train.objectives import as_forward
from dusk.train.precision import computing
from dusk.train.preference import answer_log_probabilities
from dusk.train.settings import Precision

_CAPACITY = {"cpu": 4096, "cuda": 16384}  # tokens of one pass: as many as in training


@dataclass(frozen=True)
class HeldoutLoss:
    """Loss in nats a token, bits per byte of all the text, and of each domain."""

    loss: float
    bits_per_byte: float
    domains: dict[str, float]


def heldout_loss(
    model: PreTrainedModel, store: TokenStore, *, precision: Precision | None = None
) -> HeldoutLoss:
    """Measure a model on a store of documents; attention stays inside each document."""
    nats = document_nats(model, store, precision=precision)
    tokens = int(store.predicted().sum())
    domains = {}
    for number, name in enumerate(store.domains):
        mine = store.domain == number
        domains[name] = float(nats[mine].sum() / math.log(2) / max(1, store.text_bytes[mine].sum()))
    total = float(nats.sum())
    return HeldoutLoss(
        total / max(1, tokens), total / math.log(2) / max(1, int(store.text_bytes.sum())), domains
    )


@torch.no_grad()
def document_nats(
    model: PreTrainedModel,
    store: TokenStore,
    *,
    precision: Precision | None = None,
    backend: Backend | None = None,
) -> npt.NDArray[np.float64]:
    """-log p of the trained tokens of each document in nats, (D,) float64; each rank measures its share."""
    was_training = model.training
    model.eval()
    device = model.get_output_embeddings().weight.device
    nats = np.zeros(store.documents)
    lengths = store.unit_lengths()
    bins = best_fit(lengths, _CAPACITY.get(device.type, 4096), np.argsort(lengths, kind="stable"))
    with packed(model, backend), as_forward(model, answer_log_probabilities), computing(precision, device):
        for units in dealt(bins):
            batch = {name: value.to(device) for name, value in packed_batch(store, units).items()}
            nats[batch["documents"].cpu().numpy()] = -model(batch).cpu().numpy()
    model.train(was_training)
    return summed(torch.from_numpy(nats)).numpy()
