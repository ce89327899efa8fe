"""What is kept of an entry while it is measured in lots."""

from pathlib import Path

import pytest

from dusk.evaluate.items import EntryItems, ItemStore, lot_name, read_entries


@pytest.mark.parametrize("kept", [True, False])
def test_lots_give_way_to_their_entry(tmp_path: Path, kept: bool) -> None:
    """On the disk, and where an evaluation without `out` keeps its items in memory alone."""
    path = tmp_path / "m.jsonl.gz" if kept else None
    store = ItemStore(path)
    for name in ("arc", lot_name("mmlu", 1), lot_name("mmlu", 2), "mmlu"):
        store.put(EntryItems(name, "f", {}, {}, []))
    assert list(store.entries) == ["arc", "mmlu"]
    if path:
        assert [entry.entry for entry in read_entries(path)] == ["arc", "mmlu"]
