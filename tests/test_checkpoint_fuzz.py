"""Mutated headers and indexes: refused in one clear way, or read as whole; never a crash or a hole accepted."""

import json
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dusk.checkpoint import read_header
from dusk.checkpoint.folder import _read_index
from dusk.errors import CheckpointError

pytestmark = pytest.mark.soak

ROUNDS = 6_000 if os.environ.get("DUSK_SOAK") == "short" else 200_000
SEED = int(os.environ.get("DUSK_SOAK_SEED", "0"))
WORDS = [b"9" * 30, b"-1", b"1e99", b"null", b"[]", b"{}", b'"', b"\\u0000", b"../", b"\xff", b"[" * 50, b"0"]


def good_header() -> bytes:
    fields = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
        "c": {"dtype": "U8", "shape": [0], "data_offsets": [22, 22]},
    }
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + bytes(range(22))


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bytes set, cut, doubled, or words of trouble put in, one to four times."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(changed) + 1)
        kind = draw.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] = draw.randrange(256)
        elif kind == 1:
            del changed[place : place + draw.randint(1, 6)]
        elif kind == 2:
            changed[place:place] = draw.choice(WORDS)
        elif kind == 3 and place < len(changed):
            changed[place] = draw.choice(b'0123456789{}[]",:')
        else:
            changed[place:place] = changed[place : place + draw.randint(1, 40)]
    return bytes(changed)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder that no disk waits for: ext4 writes a file through each time it is written over."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def test_mutated_headers(in_memory: Path) -> None:
    draw, file, good = random.Random(SEED), in_memory / "x.safetensors", good_header()
    accepted = 0
    for number in range(ROUNDS):
        content = mutated(good, draw)
        file.write_bytes(content)
        try:
            header = read_header(file)
        except CheckpointError:
            continue
        accepted += 1
        position = 8 + len(header.text)
        for entry in header.tensors.values():  # no hole, no overlap, nothing beyond the end
            assert entry.begin == position, (SEED, number)
            position = entry.end
        assert position == len(content), (SEED, number)
    assert 0 < accepted < ROUNDS


def test_mutated_indexes(in_memory: Path) -> None:
    draw, file = random.Random(SEED), in_memory / "model.safetensors.index.json"
    (in_memory / "a.safetensors").write_bytes(b"")
    good = json.dumps({"metadata": {}, "weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}).encode()
    accepted = 0
    for number in range(ROUNDS):
        file.write_bytes(mutated(good, draw))
        try:
            listed = _read_index(file)
        except CheckpointError:
            continue
        accepted += 1
        for name in listed.values():
            assert (in_memory / name).resolve().parent == in_memory.resolve(), (SEED, number)
    assert 0 < accepted < ROUNDS
