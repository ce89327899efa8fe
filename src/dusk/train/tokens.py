"""The tokens that a run trains on: in memory, or in a cache that its ranks and other runs share."""

from collections.abc import Sequence
from pathlib import Path

from dusk.data.packing import TokenStore
from dusk.data.stores import Counts, Reading, TokenCache, build
from dusk.train.distribution import from_main


def token_store(files: Sequence[Path], reading: Reading, cache: str | None) -> tuple[TokenStore, Counts]:
    """The store of these files. Into a cache rank 0 alone writes it, and all map it; without, each makes its own.

    Raises:
        DataError: rows that cannot be used, or none is left.
        OutputError: the disk refuses.
    """
    if cache is None:
        return build(files, reading)
    kept = TokenCache(Path(cache))
    return kept.opened(from_main(lambda: kept.made(files, reading)))
