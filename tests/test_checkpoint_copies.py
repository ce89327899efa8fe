"""Copies of runs: aligned files, each way of copying, faults of the disk; and sharing where blocks can be."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from dusk.checkpoint import (
    NewTensor,
    TensorEntry,
    can_share,
    open_checkpoint,
    plan_shards,
    read_header,
    shards,
)
from dusk.checkpoint.copies import Part, Target, write_copies
from dusk.checkpoint.positioned import InputFiles
from dusk.checkpoint.runs import in_byte_order, runs
from dusk.errors import CheckpointError
from dusk.layers import LayerMap
from dusk.scale import deeper_tensors, scale

BLOCK = shards.BLOCK_BYTES


def read_all(entry: TensorEntry) -> bytes:
    with entry.file.open("rb") as stream:
        stream.seek(entry.begin)
        return stream.read(entry.bytes)


def write_model(
    folder: Path, layers: int, names: Callable[[list[str]], list[str]], kind: str = "BF16"
) -> Path:
    """A Llama-like stack whose tensors lie in the order that `names` gives them."""
    folder.mkdir(parents=True)
    width = {"BF16": 2, "F32": 4}
    parts = {"mlp.w": ("BF16", [40, 1000]), "norm": (kind, [101])}
    every = {f"model.layers.{n}.{part}": spec for n in range(layers) for part, spec in parts.items()}
    every = {"embed": ("BF16", [77, 11]), **every, "norm": ("BF16", [1001])}
    header, content, end = {}, [], 0
    for name in names(list(every)):
        dtype, shape = every[name]
        size = width[dtype] * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        content.append(os.urandom(size))
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(content))
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "num_hidden_layers": layers}))
    return folder


def written(base: Path, layer_map: LayerMap, folder: Path, limit: int = 10**9) -> dict[str, Any]:
    """Writes the deeper tensors; the written entries by name, checked against their sources."""
    new = in_byte_order(deeper_tensors(open_checkpoint(base), layer_map))
    planned = plan_shards(new, limit)
    folder.mkdir(exist_ok=True)
    write_copies(folder, planned, {"format": "pt"})
    entries = {k: v for s in planned for k, v in read_header(folder / s.file_name).tensors.items()}
    assert set(entries) == {tensor.name for tensor in new}
    for tensor in new:
        assert tensor.source is None or read_all(entries[tensor.name]) == read_all(tensor.source)
    for shard in planned:
        with safe_open(folder / shard.file_name, "np") as reference:
            assert set(reference.keys()) == {tensor.name for tensor in shard.tensors}
    return entries


@pytest.mark.parametrize("order", [list, sorted], ids=["as built", "lexicographic"])
def test_long_runs_begin_files_at_their_place_in_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Callable[[list[str]], list[str]]
) -> None:
    monkeypatch.setattr(shards, "OWN_FILE_BYTES", 100_000)
    base = write_model(tmp_path / "base", 24, order)
    new = in_byte_order(deeper_tensors(open_checkpoint(base), LayerMap.depthwise(24)))
    planned = plan_shards(new, 700_000)
    long = [run for run in runs(new) if run.length >= 100_000]
    assert len(long) == (2 if order is list else 3)  # sorted names: 10 to 17 lie apart from 6 to 9
    for shard in planned:
        first = runs(shard.tensors)[0]
        assert first.length >= 100_000
        assert all(run.length < 100_000 for run in runs(shard.tensors)[1:])
        assert len(shard.header({})) % BLOCK == first.begin % BLOCK
        assert shard.data_bytes <= 700_000
    written(base, LayerMap.depthwise(24), tmp_path / "out", 700_000)


def test_short_runs_share_a_file(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", 8, list)
    entries = written(base, LayerMap.repeat(8), tmp_path / "out")
    assert {entry.file.name for entry in entries.values()} == {"model.safetensors"}
    assert min(entry.begin for entry in entries.values()) < 4096  # nor do they pay for an alignment


def test_wide_types_stay_aligned(tmp_path: Path) -> None:
    """101 float32 between bfloat16 matrices: in the base's order some would begin at an odd place."""
    odd = lambda names: [*names[:1], names[-1], *names[1:-1]]  # noqa: E731
    base = write_model(tmp_path / "base", 5, odd, kind="F32")
    for entry in written(base, LayerMap.parse("0-3,1-4", 5), tmp_path / "out").values():
        assert entry.begin % {"F32": 4, "BF16": 2}[entry.dtype] == 0


def ways(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Leaves only this way of copying."""

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    if way != "direct":
        monkeypatch.setattr("dusk.checkpoint.copies.open_direct", lambda *_: None)
    if way == "refused":
        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    if way in {"buffer", "windows"}:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    if way == "windows":
        monkeypatch.delattr(os, "preadv")
        monkeypatch.delattr(os, "pwrite")
        monkeypatch.setattr("dusk.checkpoint.copies.in_threads", lambda work, items: work(iter(items)))


@pytest.mark.parametrize("way", ["direct", "kernel", "refused", "buffer", "windows"])
def test_every_way_copies_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    ways(monkeypatch, way)
    content = os.urandom(21_000_001)
    (tmp_path / "a").write_bytes(content)
    with InputFiles() as sources, Target(tmp_path / "b") as target:
        source = sources[tmp_path / "a"]
        told = Counted()
        target.copy([Part(source, 1001, 5, 20_000_000), Part(source, 3, 20_000_005, 6000)], told)
    assert (tmp_path / "b").read_bytes()[5:] == content[1001:20_001_001] + content[3:6003]
    assert told.total == 20_006_000


class Counted:
    total = 0

    def add(self, count: int) -> None:
        self.total += count


@pytest.mark.parametrize("way", ["direct", "kernel", "buffer"])
def test_a_source_that_ends_early_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    ways(monkeypatch, way)
    (tmp_path / "a").write_bytes(bytes(10))
    with (
        InputFiles() as sources,
        Target(tmp_path / "b") as target,
        pytest.raises(CheckpointError, match="a became shorter while it was read"),
    ):
        target.copy([Part(sources[tmp_path / "a"], 5, 0, 20)], Counted())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_in_any_thread_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from dusk.errors import OutputError

    base = write_model(tmp_path / "base", 200, list)
    real, calls = os.pwrite, iter(range(10**6))

    def failing(handle: int, content: Any, position: int) -> int:
        if next(calls) == 3:
            raise OSError(number, os.strerror(number))
        return real(handle, content, position)

    monkeypatch.setattr(os, "pwrite", failing)
    monkeypatch.setattr("dusk.checkpoint.copies._BUFFER_BYTES", 1 << 20)
    monkeypatch.delattr(os, "copy_file_range")
    with pytest.raises(OutputError, match=os.strerror(number)):
        scale(base, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("way", ["direct", "kernel", "buffer"])
def test_a_base_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Not the output, although copy_file_range fails for either with the same number."""
    ways(monkeypatch, way)
    base = write_model(tmp_path / "base", 8, list)

    def failing(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    if way == "kernel":
        monkeypatch.setattr(os, "copy_file_range", failing)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read: Input/output error"):
        scale(base, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


def test_zeros_are_holes(tmp_path: Path) -> None:
    """Identity blocks cost no room: what nobody writes reads as zeros."""
    zeros = NewTensor("zeros", "U8", (32 << 20,), None)
    (shard,) = plan_shards([zeros])
    write_copies(tmp_path, [shard], {})
    entry = read_header(tmp_path / shard.file_name).tensors["zeros"]
    assert read_all(entry) == bytes(32 << 20)
    assert entry.file.stat().st_blocks * 512 < 1 << 20


def test_where_blocks_cannot_be_shared_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3 * BLOCK))
    (tmp_path / "small").write_bytes(b"x")
    names = {entry.name for entry in tmp_path.iterdir()}
    assert can_share(tmp_path / "a", tmp_path) in {True, False}
    assert can_share(tmp_path / "small", tmp_path) is False
    assert {entry.name for entry in tmp_path.iterdir()} == names


@pytest.fixture(params=["xfs", "btrfs"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system that shares blocks, in an image; for root alone."""
    image, place = tmp_path / "image", tmp_path / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    try:
        subprocess.run([f"mkfs.{request.param}", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no image of {request.param} can be mounted here: {error}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.soak
@pytest.mark.parametrize("order", [list, sorted], ids=["as built", "lexicographic"])
def test_blocks_are_shared_where_the_file_system_can(
    mounted: Path, monkeypatch: pytest.MonkeyPatch, order: Callable[[list[str]], list[str]]
) -> None:
    monkeypatch.setattr(shards, "OWN_FILE_BYTES", 600_000)
    base = write_model(mounted / "base", 800, order)
    assert can_share(base / "model.safetensors", mounted)
    subprocess.run(["sync", "-f", str(mounted)], check=True)
    before = used(mounted)
    report = scale(base, mounted / "out", drop=200)
    subprocess.run(["sync", "-f", str(mounted)], check=True)
    assert report.shared_bytes > 0.9 * report.tensor_bytes
    assert used(mounted) - before < 0.1 * report.tensor_bytes
    opened = open_checkpoint(mounted / "out")
    source = open_checkpoint(base).tensors
    for name, entry in opened.tensors.items():
        split = opened.layout.split(name)
        assert read_all(entry) == read_all(
            source[opened.layout.name(report.layer_map.source[split[0]], split[1]) if split else name]
        )


def used(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize
