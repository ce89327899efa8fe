"""Log-likelihoods over a token-prefix tree, with a key-value cache that branches where the sequences part.

Nodes of one depth are batched by length. Each batch takes from its parents' cache one row for every node, so
that a context is computed once for all of its choices, and the shots of a subject once for all of its questions.
Logits are computed at the scored positions alone.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from dusk.evaluate.prefix_tree import Node, Scored, prefix_tree

CPU_TOKENS = 4096  # in the cache and the batch; more gains nothing on a CPU
GPU_TOKENS = 262_144  # halved for as long as memory runs out


@dataclass(frozen=True)
class Answer:
    """The log-likelihood of a sequence's targets in nats, and whether each is the likeliest token."""

    log_likelihood: float
    greedy: bool


@dataclass(frozen=True)
class _Past:
    """The cache of a batch of nodes, and which of its positions hold a token: (rows, positions)."""

    cache: Any
    held: torch.Tensor

    @property
    def full(self) -> bool:
        return bool(self.held.all())


@dataclass
class Branching:
    """Scores sequences with one model; raises torch's OutOfMemoryError if a single row does not fit.

    `rows` bounds a batch's sequences, `tokens` its positions times sequences, the cached ones included.
    """

    model: Any
    device: torch.device
    tokens: int
    rows: int | None = None
    softmax_dtype: torch.dtype | None = None
    on_done: Callable[[int], None] = lambda sequence: None
    _pieces: list[dict[int, tuple[float, bool]]] = field(default_factory=list)
    _missing: list[int] = field(default_factory=list)

    @torch.inference_mode()
    def score(self, sequences: Sequence[Scored]) -> list[Answer]:
        """An answer for every sequence, in their order."""
        self._pieces = [{} for _ in sequences]
        self._missing = [len(sequence.targets) for sequence in sequences]
        self._descend([(0, node) for node in prefix_tree(sequences)], None)
        return [
            Answer(sum(log for log, _ in pieces.values()), all(greedy for _, greedy in pieces.values()))
            for pieces in self._pieces
        ]

    def _descend(self, nodes: list[tuple[int, Node]], past: _Past | None) -> None:
        """Score the nodes, each after its row of the past, and all that lies below them."""
        waiting = sorted(nodes, key=lambda each: -len(each[1].tokens))
        while waiting:
            batch = waiting[: self._fitting(waiting, past)]
            try:
                after = self._forward(batch, past)
                below = [(row, child) for row, (_, node) in enumerate(batch) for child in node.children]
                if below:
                    self._descend(below, after)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.tokens = max(1, self.tokens // 2)
                continue  # what has its answer already gets the same again
            waiting = waiting[len(batch) :]

    def _fitting(self, waiting: list[tuple[int, Node]], past: _Past | None) -> int:
        width = len(waiting[0][1].tokens) + (past.held.shape[1] if past else 0)
        fitting = max(1, self.tokens // width)
        return min(fitting, self.rows) if self.rows else fitting

    def _forward(self, batch: list[tuple[int, Node]], past: _Past | None) -> _Past | None:
        """Run the nodes of a batch, note what they score, and return their cache if anything is below them."""
        nodes = [node for _, node in batch]
        width = len(nodes[0].tokens)
        ids = torch.zeros(len(nodes), width, dtype=torch.long)
        held = torch.zeros(len(nodes), width, dtype=torch.bool)
        for row, node in enumerate(nodes):
            ids[row, : len(node.tokens)] = torch.tensor(node.tokens)
            held[row, : len(node.tokens)] = True
        given: dict[str, Any] = {}
        held = held.to(self.device)
        deeper = any(node.children for node in nodes)
        if past is not None:
            given["position_ids"] = _positions(nodes, width).to(self.device)
            parents = torch.tensor([row for row, _ in batch], device=self.device)
            held = torch.cat([past.held[parents], held], dim=1)
            given["past_key_values"] = _rows_of(past.cache, parents)
            if not past.full:  # padding to the right alone is hidden by causality
                given["attention_mask"] = held.long()
        places = sorted(
            {share.offset + step for node in nodes for share in node.shares for step in _steps(share)}
        )
        out = self.model(
            input_ids=ids.to(self.device),
            use_cache=deeper or past is not None,
            logits_to_keep=torch.tensor(places or [0], device=self.device),
            **given,
        )
        if places:
            self._note(nodes, {place: column for column, place in enumerate(places)}, out.logits)
        return _Past(out.past_key_values, held) if deeper else None

    def _note(self, nodes: list[Node], column_of: dict[int, int], logits: torch.Tensor) -> None:
        """Add to the answers what the logits (rows, kept positions, vocabulary) say of the nodes' shares."""
        wanted = sorted(
            {(row, s.offset + step) for row, n in enumerate(nodes) for s in n.shares for step in _steps(s)}
        )
        at = {place: number for number, place in enumerate(wanted)}
        rows = torch.tensor([row for row, _ in wanted], device=logits.device)
        columns = torch.tensor([column_of[place] for _, place in wanted], device=logits.device)
        logs = logits[rows, columns].log_softmax(-1, dtype=self.softmax_dtype)  # (wanted, vocabulary)
        likeliest = logs.argmax(-1).tolist()
        shares = [(row, node, share) for row, node in enumerate(nodes) for share in node.shares]
        places = [at[row, share.offset + step] for row, _, share in shares for step in _steps(share)]
        targets = [target for _, _, share in shares for target in share.targets]
        found = logs[places, targets].double().tolist()
        begin = 0
        for _, node, share in shares:
            end = begin + len(share.targets)
            greedy = all(
                likeliest[place] == target
                for place, target in zip(places[begin:end], share.targets, strict=True)
            )
            self._add(share.sequence, node.begin, sum(found[begin:end]), greedy, len(share.targets))
            begin = end

    def _add(self, sequence: int, begin: int, log: float, greedy: bool, targets: int) -> None:
        if begin not in self._pieces[sequence]:
            self._missing[sequence] -= targets
            if not self._missing[sequence]:
                self.on_done(sequence)
        self._pieces[sequence][begin] = (log, greedy)


def _steps(share: Any) -> range:
    return range(len(share.targets))


def _positions(nodes: list[Node], width: int) -> torch.Tensor:
    """(rows, width): where each token stands in its sequence; padding stands with the last, never beyond it."""
    steps = torch.arange(width)
    return torch.stack([node.begin + steps.clamp(max=len(node.tokens) - 1) for node in nodes])


def _rows_of(cache: Any, rows: torch.Tensor) -> Any:
    """A cache with the given rows of another, which stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen


def can_branch(model: Any, longest: int) -> bool:
    """Whether the model's cache can branch: plain attention over all of `longest` positions.

    Recurrent states, windows shorter than that and caches of other kinds cannot.
    """
    wanted = {"position_ids", "past_key_values", "logits_to_keep", "attention_mask"}
    if not wanted <= set(inspect.signature(model.forward).parameters):
        return False
    with torch.inference_mode():
        cache = model(
            torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True
        ).past_key_values
    return isinstance(cache, DynamicCache) and all(_attends(layer, longest) for layer in cache.layers)


def _attends(layer: Any, longest: int) -> bool:
    if type(layer) is DynamicSlidingWindowLayer:
        return bool(longest < layer.sliding_window)
    return type(layer) is DynamicLayer
