"""Token files: the same tokens as in memory, by any number of threads; whole or absent; larger than memory."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import dusk
from dusk.data import packing, stores
from dusk.data.encode import TextTokenizer
from dusk.data.packing import TokenDocument, TokenStore, build_store
from dusk.data.stores import Chats, Pairs, Reading, Texts, TokenCache
from dusk.data.templates import ALPACA, SOLAR
from dusk.data.token_files import TokenWriter
from dusk.data.tokenizer import save_tokenizer, train_tokenizer
from dusk.errors import DataError
from train_models import (
    VOCABULARY,
    assert_same_weights,
    chat_file,
    kept_environment,
    metrics,
    pair_file,
    save_base,
    text,
    text_file,
    write_rows,
)

SETTINGS: dict[str, Any] = {"batch_tokens": 256, "learning_rate": 1e-3, "threads": 1}
ARRAYS = ("tokens", "trained", "offsets", "text_bytes", "domain")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer([text(200, 0)], VOCABULARY), folder, context=128)
    return folder / "tokenizer.json"


def loaded(file: Path) -> TextTokenizer:
    return TextTokenizer(Tokenizer.from_file(str(file)), eos=1)


def readings(file: Path) -> dict[str, Reading]:
    own = loaded(file)
    return {"text": Texts(own, 32), "chat": Chats(own, 40, SOLAR), "pairs": Pairs(own, 46, SOLAR)}


def data(folder: Path, kind: str) -> list[Path]:
    """Two files; the rows of the second name their domains, in an order that is not theirs by name."""
    make = {"text": text_file, "chat": chat_file, "pairs": pair_file}[kind]
    one, two = make(folder, name="one.jsonl"), make(folder, name="two.jsonl", rows=17)
    rows = [json.loads(line) for line in two.read_text().splitlines()]
    return [one, write_rows(two, (row | {"source": "cab"[i % 3]} for i, row in enumerate(rows)))]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def assert_equal(one: TokenStore, other: TokenStore) -> None:
    assert one.digest() == other.digest()
    assert (one.domains, one.documents_per_unit) == (other.domains, other.documents_per_unit)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


@pytest.mark.parametrize("kind", ["text", "chat", "pairs"])
def test_files_hold_what_a_store_in_memory_holds_for_every_size_of_chunk(
    kind: str, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files, reading = data(tmp_path, kind), readings(tokenizer)[kind]
    store, counts = stores.build(files, reading)
    seen = []
    for rows, characters in ((1000, 10**6), (7, 10**6), (1000, 150), (1, 1)):
        monkeypatch.setattr(stores, "_ROWS_AT_ONCE", rows)
        monkeypatch.setattr(stores, "_CHARACTERS_AT_ONCE", characters)
        folder = TokenCache(tmp_path / f"{rows}-{characters}").made(files, reading)
        found, counted = TokenCache.opened(folder)
        assert_equal(found, store)
        assert counted == counts
        seen.append(contents(folder))
    assert all(other == seen[0] for other in seen)
    assert sum(counts.by_file) == counts.documents == store.documents
    assert len(store.domains) == 4
    assert kind == "text" or counts.left_out


_HEAD = (
    "import fcntl, os, resource, signal, sys\nfrom pathlib import Path\nfrom tokenizers import Tokenizer\n"
    "from dusk.data import stores\nfrom dusk.data.encode import TextTokenizer\n"
    "from dusk.data.token_files import TokenWriter\n"
    "reading = stores.Texts(TextTokenizer(Tokenizer.from_file(sys.argv[1]), eos=1), 32)\n"
    "cache, files = stores.TokenCache(Path(sys.argv[2])), [Path(file) for file in sys.argv[3:]]\n"
)
"""Where scripts begin: `files`, `reading` and `cache` are at hand."""


def script(lines: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines of Python behind `_HEAD`."""
    return subprocess.run(
        [sys.executable, "-c", _HEAD + lines, *map(str, arguments)],
        env=kept_environment() | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_bytes_are_equal_for_every_number_of_threads(tokenizer: Path, tmp_path: Path):
    files = data(tmp_path, "text")
    made = []
    for threads in ("1", "4"):
        ran = script(
            "print(cache.made(files, reading))",
            tokenizer,
            tmp_path / threads,
            *files,
            TOKENIZERS_PARALLELISM="true",
            RAYON_NUM_THREADS=threads,
        )
        assert ran.returncode == 0, ran.stderr
        made.append(contents(Path(ran.stdout.strip())))
    assert made[0] == made[1]


_KILLED = """
stores._ROWS_AT_ONCE = 10
before, left = TokenWriter.append, [4]
def append(self, documents):
    before(self, documents)
    left[0] -= 1
    if not left[0]:
        [file.flush() for file in self._files.values()]
        os.kill(os.getpid(), signal.SIGKILL)
TokenWriter.append = append
cache.made(files, reading)
"""


def test_a_killed_build_leaves_nothing_that_passes_for_whole(tokenizer: Path, tmp_path: Path):
    files, cache = data(tmp_path, "text"), tmp_path / "cache"
    assert script(_KILLED, tokenizer, cache, *files).returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert left.suffix == ".partial"
    assert (left / "tokens.i32").stat().st_size
    with pytest.raises(DataError, match="no whole token store"):
        TokenCache.opened(left)
    reading = readings(tokenizer)["text"]
    folder = TokenCache(cache).made(files, reading)
    assert_equal(TokenCache.opened(folder)[0], stores.build(files, reading)[0])
    assert [entry.name for entry in cache.iterdir()] == [folder.name]


_FIRST = """
before = TokenWriter.append
def append(self, documents):
    print("writes", flush=True)
    sys.stdin.readline()
    before(self, documents)
TokenWriter.append = append
print(cache.made(files, reading))
"""

_SECOND = """
before = fcntl.flock
def flock(*given):
    print("locks", flush=True)
    before(*given)
fcntl.flock = flock
appended = TokenWriter.append
def append(self, documents):
    print("writes", flush=True)
    appended(self, documents)
TokenWriter.append = append
print(cache.made(files, reading))
"""


@pytest.mark.parametrize("first", ["goes on", "is killed"])
def test_of_two_that_start_together_one_writes_and_both_have_it(first: str, tokenizer: Path, tmp_path: Path):
    files, cache = data(tmp_path, "text"), tmp_path / "cache"

    def started(lines: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _HEAD + lines, *map(str, (tokenizer, cache, *files))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=kept_environment(), text=True, **pipes)

    with started(_FIRST) as writer:
        assert writer.stdout.readline() == "writes\n"
        with started(_SECOND) as other:
            assert other.stdout.readline() == "locks\n"
            writer.kill() if first == "is killed" else writer.stdin.close()
            told, others = writer.stdout.read().split(), other.stdout.read().split()
    (folder,) = cache.iterdir()
    assert told[-1:] == ([] if first == "is killed" else [str(folder)])
    assert others[-1] == str(folder)
    assert ("writes" in others) == (first == "is killed")
    assert_equal(TokenCache.opened(folder)[0], stores.build(files, readings(tokenizer)["text"])[0])


def test_what_another_process_has_made_meanwhile_is_taken(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As where there are no locks: the other's store is there when ours is to be renamed."""
    cache, files, reading = (
        TokenCache(tmp_path / "cache"),
        data(tmp_path, "text"),
        readings(tokenizer)["text"],
    )
    write = TokenCache._write

    def overtaken(folder: Path, *given: Any) -> None:
        write(folder, *given)
        shutil.copytree(folder, folder.with_suffix(""))
        (folder / "meta.json").unlink()

    monkeypatch.setattr(TokenCache, "_write", staticmethod(overtaken))
    folder = cache.made(files, reading)
    assert_equal(cache.opened(folder)[0], stores.build(files, reading)[0])
    assert list(cache.folder.iterdir()) == [folder]


def test_a_build_that_fails_leaves_nothing(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache, reading = TokenCache(tmp_path / "cache"), readings(tokenizer)["chat"]
    long = write_rows(tmp_path / "long.jsonl", [{"prompt": "a", "completion": text(90, 0)}])
    with pytest.raises(DataError, match="1 of 1: answer does not fit the context"):
        cache.made([long], reading)

    def refuse(self: TokenWriter, documents: Sequence[TokenDocument]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenWriter, "append", refuse)
    with pytest.raises(KeyboardInterrupt):
        cache.made(data(tmp_path, "chat"), reading)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_documents_depend_on_names_the_entry_and_an_entry_is_made_once(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache, files, reading = (
        TokenCache(tmp_path / "cache"),
        data(tmp_path, "chat"),
        readings(tokenizer)["chat"],
    )
    assert isinstance(reading, Chats)
    folder = cache.made(files, reading)
    other = train_tokenizer([text(200, 0)], VOCABULARY - 5)
    other.save(str(tmp_path / "other.json"))
    changed = tmp_path / "changed.jsonl"
    rows = files[0].read_text().splitlines(keepends=True)
    changed.write_text("".join([*rows[:-1], rows[-1].replace("?", "!")]))
    entries = [
        folder,
        cache.made(files[:1], reading),
        cache.made(files[::-1], reading),
        cache.made([changed.replace(files[0]), files[1]], reading),
        cache.made(files, dataclasses.replace(reading, sequence_length=200)),
        cache.made(files, dataclasses.replace(reading, sequence_length=200, template=ALPACA)),
        cache.made(files, dataclasses.replace(reading, tokenizer=loaded(tmp_path / "other.json"))),
        cache.made(files, dataclasses.replace(reading, tokenizer=TextTokenizer(other, eos=2))),
    ]
    assert len(set(entries)) == len(entries)
    monkeypatch.setattr(stores, "_documents", None)  # nothing is read again
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    again = [Path(file).rename(moved / file.name) for file in files]
    assert cache.made(again, reading) == entries[3]
    monkeypatch.setattr(stores, "FORMAT", 0)
    with pytest.raises(TypeError):
        cache.made(again, reading)


@pytest.mark.parametrize("name", ["tokens.i32", "trained.u8", "offsets.i64", "domain.i32", "meta.json"])
def test_a_damaged_entry_is_named(name: str, tokenizer: Path, tmp_path: Path):
    folder = TokenCache(tmp_path / "cache").made(data(tmp_path, "text"), readings(tokenizer)["text"])
    os.truncate(folder / name, (folder / name).stat().st_size - 3)
    with pytest.raises(DataError, match="no whole token store") as caught:
        TokenCache.opened(folder)
    assert str(folder) in str(caught.value)
    assert "Remove the folder" in str(caught.value)


_BOUNDED = """
stores._CHARACTERS_AT_ONCE = 50_000
reading.tokenizer.encode(["warm"] * 100)
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (held + int(os.environ["ROOM"]),) * 2)
if os.environ["WAY"] == "memory":
    signal.alarm(30)  # a tokenizer that is out of memory may hang instead of ending
    store, _ = stores.build(files, reading)
else:
    store, _ = cache.opened(cache.made(files, reading))
print(store.tokens.size, store.predicted().sum(), store.digest())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_building_and_opening_take_the_memory_of_a_chunk(tokenizer: Path, tmp_path: Path):
    """RLIMIT_DATA counts what a process allocates, and not the files that it maps."""
    file = write_rows(tmp_path / "large.jsonl", ({"text": text(200, i % 50)} for i in range(3000)))
    single = {"TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "1", "ROOM": str(16 << 20)}
    held = script(_BOUNDED, tokenizer, tmp_path, file, WAY="memory", **single)
    assert held.returncode != 0
    assert re.search("MemoryError|memory allocation", held.stderr)
    made = script(_BOUNDED, tokenizer, tmp_path, file, WAY="files", **single)
    assert made.returncode == 0, made.stderr
    opened = script(_BOUNDED, tokenizer, tmp_path, file, WAY="files", **single)
    store, _ = stores.build([file], readings(tokenizer)["text"])
    told = f"{store.tokens.size} {store.predicted().sum()} {store.digest()}"
    assert made.stdout.strip() == opened.stdout.strip() == told


def test_predicted_tokens_are_counted_by_the_piece(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    lengths = [0, *random.integers(0, 9, 40).tolist(), 0]
    documents = [TokenDocument([1] * n, (random.random(n) < 0.5).tolist()) for n in lengths]
    store = build_store(documents)
    expected = [sum(document.trained[1:]) for document in documents]
    for size in (1, 3, 1024):
        monkeypatch.setattr(packing, "_DOCUMENTS_AT_ONCE", size)
        assert store.predicted().tolist() == expected


def test_a_run_from_a_cache_is_the_run_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base, cache = save_base(tmp_path / "base"), tmp_path / "cache"
    texts = [text_file(tmp_path), text_file(tmp_path, name="replay.jsonl", rows=12, seed=7)]
    mixed: dict[str, Any] = {
        "data": texts,
        "shares": [0.7, 0.3],
        "eval_data": text_file(tmp_path, 9, "h.jsonl", 5),
    }
    tuned: dict[str, Any] = {"data": chat_file(tmp_path)}
    aligned: dict[str, Any] = {"steps": [pair_file(tmp_path)]}
    commands = ((dusk.pretrain, mixed), (dusk.sft, tuned), (dusk.align, aligned))
    for number, (command, given) in enumerate(commands):
        command(base, tmp_path / f"memory{number}", **given, **SETTINGS)
        command(base, tmp_path / f"cached{number}", **given, **SETTINGS, token_cache=str(cache))
    assert sorted(entry.name.split("-")[0] for entry in cache.iterdir()) == ["chat", "pairs", "text", "text"]
    monkeypatch.setattr(stores, "_documents", None)  # another run finds what it needs
    for number, (command, given) in enumerate(commands):
        command(base, tmp_path / f"again{number}", **given, **SETTINGS, token_cache=str(cache))
        for name in ("cached", "again"):
            assert_same_weights(tmp_path / f"{name}{number}", tmp_path / f"memory{number}")
            assert metrics(tmp_path / f"{name}{number}") == metrics(tmp_path / f"memory{number}")


def test_a_file_with_a_share_and_without_text_is_named(tmp_path: Path):
    base, empty = save_base(tmp_path / "base"), write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="no row is left") as caught:
        dusk.pretrain(base, tmp_path / "out", data=[text_file(tmp_path), empty], shares=[1, 1], **SETTINGS)
    assert str(empty) in str(caught.value)
