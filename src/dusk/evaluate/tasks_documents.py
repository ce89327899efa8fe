"""The task of held-out documents: how many bits a byte of their text costs the model.

Few documents, from every package alike, and the beginning of each: enough for an interval, and cheap.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

FIELDS = ("text", "source")

_LONGEST = 600  # characters of a document: attention costs their square
_SHORTEST = 200

T = TypeVar("T")


def make_items(
    rows: Iterable[Mapping[str, Any]], *, task: str, items: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Up to `items` documents {"text", "source", "name"} under the task's name, packages in turn."""
    long_enough = [row for row in rows if len(row["text"]) >= _SHORTEST]
    chosen = in_turn(
        long_enough, [row["source"] for row in long_enough], [row["text"] for row in long_enough], seed
    )
    return {
        task: [
            {"text": beginning(row["text"], _LONGEST), "source": row["source"], "name": row.get("name", "")}
            for row in chosen[:items]
        ]
    }


def beginning(text: str, longest: int) -> str:
    """The text up to the last line or word that ends within `longest` characters."""
    if len(text) <= longest:
        return text
    head = text[:longest]
    cut = max(head.rfind("\n"), head.rfind(" "))
    return head[: cut if cut > 0 else longest].rstrip()


def in_turn(things: Sequence[T], groups: Sequence[str], keys: Sequence[str], seed: int) -> list[T]:
    """All things, one of each group after another, and within a group by the digest of the key.

    The order depends on the content alone, so the first n are the same whatever the file's order, and each
    group has about n over the number of groups of them.
    """
    by_group: dict[str, list[tuple[bytes, int]]] = {}
    for index, (group, key) in enumerate(zip(groups, keys, strict=True)):
        digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
        by_group.setdefault(group, []).append((digest, index))
    rounds = zip_longest(*(sorted(by_group[group]) for group in sorted(by_group)))
    return [things[drawn[1]] for round_ in rounds for drawn in round_ if drawn is not None]
