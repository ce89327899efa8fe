"""The token-prefix tree over scored sequences: what begins alike is computed once.

A scored sequence is what a model is given, and the tokens that its last positions are to predict. The choices of a
question share the question, and the questions of an MMLU subject their shots, so their sequences make a tree
whose nodes are runs of tokens. A node is worth having only where it saves a fair share of its subtree: that
two prompts begin with the same three words does not count.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

WORTHWHILE = 1 / 16  # of the tokens under a node: what sharing it must save

Tokens = Sequence[int]


@dataclass(frozen=True)
class Scored:
    """`inputs` (n,) are given to the model; its logits at the last k positions are to predict `targets` (k,)."""

    inputs: Tokens
    targets: Tokens


@dataclass(frozen=True)
class Share:
    """The part of a sequence's targets that the logits of one node predict, from its position `offset` on."""

    sequence: int
    offset: int
    targets: Tokens


@dataclass
class Node:
    """A run of tokens from position `begin` on, after the runs of the nodes above."""

    begin: int
    tokens: Tokens
    shares: list[Share] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)

    def walk(self) -> Iterator["Node"]:
        """The node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def prefix_tree(sequences: Sequence[Scored], worthwhile: float = WORTHWHILE) -> list[Node]:
    """The nodes without a parent, over all sequences. Each target stands in one share of one node.

    With `worthwhile` 0 everything that is alike is shared; with 1 nothing but whole sequences is.
    """
    order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index].inputs))
    ordered = [sequences[index] for index in order]
    alike = [_common(first.inputs, second.inputs) for first, second in pairwise(ordered)]
    return list(_Grower(ordered, order, alike, worthwhile).grow(0, len(ordered), 0))


def count_tokens(nodes: Sequence[Node]) -> int:
    """How many tokens go through the model."""
    return sum(len(node.tokens) for top in nodes for node in top.walk())


def _common(first: Tokens, second: Tokens) -> int:
    """The length of the common beginning; by bisection, since comparing slices is fast."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class _Grower:
    """Sequences in the order of their tokens, their numbers, and how long each is alike with its next."""

    sequences: Sequence[Scored]
    numbers: Sequence[int]
    alike: Sequence[int]
    worthwhile: float

    def grow(self, first: int, last: int, begin: int) -> Iterator[Node]:
        """The nodes of the sequences from `first` to before `last`, which have begun alike up to `begin`."""
        if first == last:
            return
        inputs = self.sequences[first].inputs
        shared = min(self.alike[first : last - 1], default=len(inputs))
        branches = list(self._branches(first, last, shared))
        if len(branches) > 1 and not self._pays(first, last, begin, shared, len(branches)):
            for branch in branches:
                yield from self.grow(*branch, begin)
            return
        node = Node(begin, inputs[begin:shared])
        for number in range(first, last):
            share = self._share(number, begin, shared)
            if share is not None:
                node.shares.append(share)
        for low, high in branches:
            if len(self.sequences[high - 1].inputs) > shared:
                node.children += self.grow(low, high, shared)
        yield node

    def _branches(self, first: int, last: int, shared: int) -> Iterator[tuple[int, int]]:
        """Where the sequences part after `shared` tokens."""
        cuts = [number + 1 for number in range(first, last - 1) if self.alike[number] == shared]
        whole = len(self.sequences[first].inputs) == shared  # those that end here are one branch
        ended = [cut for cut in cuts if not whole or len(self.sequences[cut].inputs) > shared]
        yield from pairwise([first, *ended, last])

    def _pays(self, first: int, last: int, begin: int, shared: int, branches: int) -> bool:
        saved = (shared - begin) * (branches - 1)
        unshared = sum(
            len(inputs) - begin for inputs, _ in groupby(s.inputs for s in self.sequences[first:last])
        )
        return saved > 0 and saved >= self.worthwhile * unshared

    def _share(self, number: int, begin: int, end: int) -> Share | None:
        """What positions `begin` to before `end` predict of the sequence's targets."""
        sequence = self.sequences[number]
        scored_from = len(sequence.inputs) - len(sequence.targets)
        low, high = max(begin, scored_from), min(end, len(sequence.inputs))
        if low >= high:
            return None
        targets = sequence.targets[low - scored_from : high - scored_from]
        return Share(self.numbers[number], low - begin, targets)
