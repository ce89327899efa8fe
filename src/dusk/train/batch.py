"""The one packed batch: what pretraining, tuning and alignment all train on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dusk.data.packing import TokenStore
from dusk.train.loss import IGNORED

Batch = dict[str, Tensor]
"""input_ids, position_ids and labels (1, T); boundaries (D+1,): where documents begin and end; documents (D,):
their numbers in the store; prefixes (D,): which document of the batch each goes on from, or -1.
`labels[0, t]` is the token that follows token t in its document, or IGNORED. No document is empty."""


def packed_batch(store: TokenStore, units: Sequence[int]) -> Batch:
    """Join units of a store into one packed row; of no unit, a row that adds nothing to any loss.

    A rank that has nothing left to do in a step must still compute, as the others need its shards.
    """
    if not units:
        return _idle_batch()
    documents, prefixes = _documents(store, units)
    spans = [(int(store.offsets[d]), int(store.offsets[d + 1])) for d in documents]
    tokens = np.concatenate([store.tokens[begin:end] for begin, end in spans]).astype(np.int64)
    trained = np.concatenate([store.trained[begin:end] for begin, end in spans])
    lengths = np.array([end - begin for begin, end in spans])
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.full(len(tokens), IGNORED, np.int64)
    labels[:-1] = np.where(trained[1:], tokens[1:], IGNORED)
    labels[boundaries[1:] - 1] = IGNORED  # the last token of a document predicts nothing
    first = np.where(np.array(prefixes) < 0, 0, lengths[prefixes])
    positions = [np.arange(begin, begin + length) for begin, length in zip(first, lengths, strict=True)]
    return {
        "input_ids": torch.from_numpy(tokens)[None],
        "position_ids": torch.from_numpy(np.concatenate(positions))[None],
        "labels": torch.from_numpy(labels)[None],
        "boundaries": torch.from_numpy(boundaries),
        "documents": torch.tensor(documents),
        "prefixes": torch.tensor(prefixes),
    }


def _documents(store: TokenStore, units: Sequence[int]) -> tuple[list[int], list[int]]:
    """The documents of these units that are not empty, and the place among them of each one's prefix, or -1."""
    documents: list[int] = []
    prefixes: list[int] = []
    for unit in units:
        members = store.unit_documents(unit)
        filled = [d for d in members if store.offsets[d + 1] > store.offsets[d]]
        shared = len(members) > 1 and filled[0] == members[0]
        prefix = len(documents) if shared else -1
        documents += filled
        prefixes += [-1 if shared and d == members[0] else prefix for d in filled]
    return documents, prefixes


def _idle_batch() -> Batch:
    """One token, in no document."""
    return {
        "input_ids": torch.zeros(1, 1, dtype=torch.long),
        "position_ids": torch.zeros(1, 1, dtype=torch.long),
        "labels": torch.full((1, 1), IGNORED),
        "boundaries": torch.tensor([0, 1]),
        "documents": torch.empty(0, dtype=torch.long),
        "prefixes": torch.tensor([-1]),
    }


class PlannedBatches(Dataset[Batch]):
    """The batches of a whole run, made when they are asked for; item i is the run's i-th micro batch."""

    def __init__(self, store: TokenStore, plan: Sequence[Sequence[int]]) -> None:
        self.store = store
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Batch:
        return packed_batch(self.store, self.plan[index])


def only_item(items: list[Any]) -> Any:
    """Collate a list of one: a packed batch is a whole batch already."""
    (item,) = items
    return item
