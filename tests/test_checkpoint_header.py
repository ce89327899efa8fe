"""Safetensors headers: the reference reader agrees on good files, and every kind of bad one is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dusk.checkpoint import NewTensor, TensorEntry, plan_shards, read_header
from dusk.checkpoint.copies import write_copies
from dusk.checkpoint.runs import in_byte_order, runs
from dusk.errors import CheckpointError


def read_all(entry: TensorEntry) -> bytes:
    return entry.file.read_bytes()[entry.begin : entry.end]


def write(file: Path, fields: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return file


def entry(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def test_the_reference_reader_agrees(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.arange(7),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }
    file = tmp_path / "x.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    header = read_header(file)
    assert header.metadata == {"format": "pt"}
    with safe_open(file, "pt") as reference:
        assert set(header.tensors) == set(reference.keys())
        for name, found in header.tensors.items():
            part = reference.get_slice(name)
            assert (found.dtype, list(found.shape)) == (part.get_dtype(), part.get_shape())
            assert read_all(found) == bytes(tensors[name].contiguous().reshape(-1).view(torch.uint8).tolist())


BAD: dict[str, tuple[Any, bytes, str]] = {
    "overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6), "b overlaps a by 2 bytes"),
    "the same bytes twice": ({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4), "overlaps"),
    "hole": ({"a": entry(0, 4), "b": entry(6, 8)}, bytes(8), "a hole of 2 bytes between a and b"),
    "hole at the start": ({"a": entry(2, 4)}, bytes(4), "between the header and a"),
    "cut short": ({"a": entry(0, 4)}, bytes(3), "cut short"),
    "more than described": ({"a": entry(0, 4)}, bytes(5), "1 bytes after a belong to no tensor"),
    "beyond the file": ({"a": entry(0, 2**62)}, bytes(4), "cut short"),
    "size": ({"a": entry(0, 4, "F32", [2])}, bytes(4), "F32 of shape [2] takes 8 bytes"),
    "overflow": ({"a": entry(0, 0, "F32", [2**62, 4])}, b"", "its offsets hold 0"),
    "backwards": ({"a": entry(4, 0, shape=[4])}, bytes(4), "are no offsets"),
    "negative offset": ({"a": entry(-4, 0)}, bytes(4), "are no offsets"),
    "negative shape": ({"a": entry(0, 4, shape=[-2, -2])}, bytes(4), "is no shape"),
    "fractions": ({"a": {**entry(0, 4), "data_offsets": [0, 4.0]}}, bytes(4), "are no offsets"),
    "true is no number": ({"a": {**entry(0, 1), "shape": [True]}}, bytes(1), "is no shape"),
    "type": ({"a": entry(0, 4, "F3")}, bytes(4), "unknown type 'F3'"),
    "type is no text": ({"a": {**entry(0, 4), "dtype": ["F32"]}}, bytes(4), "unknown type"),
    "no tensor": ({"a": 7}, b"", "exactly"),
    "missing field": ({"a": {"dtype": "U8", "shape": []}}, b"", "exactly"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "no object of strings"),
    "twice": (b'{"a": 1, "a": 1}', b"", "'a' occurs twice"),
    "twice inside": (b'{"a": {"shape": [], "shape": []}}', b"", "'shape' occurs twice"),
    "no json": (b"{]", b"", "no JSON"),
    "a list": (b"[]", b"", "does not begin with"),
    "spaces first": (b"  {}", b"", "does not begin with"),
    "not utf-8": (b'{"\xff": 1}', b"", "no JSON"),
    "nan": (b'{"a": NaN}', b"", "no JSON number"),
    "deep": (b'{"a":' + b"[" * 200_000, b"", "nested too deeply"),
    "long number": (b'{"a": ' + b"9" * 10_000 + b"}", b"", "no JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_headers_are_refused(tmp_path: Path, kind: str) -> None:
    fields, data, message = BAD[kind]
    with pytest.raises(CheckpointError) as caught:
        read_header(write(tmp_path / "x.safetensors", fields, data))
    assert message in str(caught.value)
    assert "x.safetensors is not a whole safetensors file" in caught.value.message


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, 100_000_001])
def test_lengths_that_lie(tmp_path: Path, length: int) -> None:
    with pytest.raises(CheckpointError):
        read_header(write(tmp_path / "x", b"{}", b"", length))


@pytest.mark.parametrize("content", [b"", b"1234567", bytes(8)])
def test_files_without_a_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_header(tmp_path / "x")


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    fields = {"a": entry(0, 4, "F3"), "b": entry(0, 99), "c": 1, "d": entry(0, 4)}
    with pytest.raises(CheckpointError) as caught:
        read_header(write(tmp_path / "x", fields, bytes(4)))
    assert len(caught.value.problems) == 3
    many = {f"t{i}": entry(0, 4, "F3") for i in range(50)}
    with pytest.raises(CheckpointError) as caught:
        read_header(write(tmp_path / "x", many, bytes(4)))
    assert caught.value.problems[-1] == "and 30 more"


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("header") / "good.safetensors"
    save_file({"a": torch.randn(3), "b": torch.randn(2, 2).half(), "c": torch.zeros(0)}, file)
    return file


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_we_accept_the_reference_accepts(good_file: Path, data: st.DataObject) -> None:
    """Any change of a file's bytes is either refused or read as the format's own reader reads it."""
    content = bytearray(good_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if change == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del content[place : place + data.draw(st.integers(1, 4))]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=4))
        if not content:
            content = bytearray(b"\0")
    mutated = good_file.with_name("mutated.safetensors")
    mutated.write_bytes(content)
    try:
        header = read_header(mutated)
    except CheckpointError:
        return
    try:
        with safe_open(mutated, "np") as reference:
            assert set(reference.keys()) == set(header.tensors)
    except SafetensorError as error:  # types that numpy lacks are none of the header's faults
        raise AssertionError(f"accepted what the reference refuses: {error}") from error


@given(st.lists(st.tuples(st.sampled_from(["F32", "BF16", "U8"]), st.integers(0, 9)), max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_written_files_hold_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Copies in any multiplicity, zeros between them, any limit: the reader finds every byte again."""
    folder = tmp_path_factory.mktemp("copies")
    sizes = {"F32": 4, "BF16": 2, "U8": 1}
    fields, content = {}, b""
    for number, (dtype, count) in enumerate(kinds):
        size = count * sizes[dtype]
        fields[f"t{number}"] = entry(len(content), len(content) + size, dtype, [count])
        content += bytes((number * 31 + i) % 255 + 1 for i in range(size))
    source = read_header(write(folder / "source", fields, content)).tensors
    chosen = data.draw(
        st.lists(st.tuples(st.sampled_from(sorted(source) or ["-"]), st.booleans()), max_size=20)
    )
    new = [
        NewTensor(f"n{i}", source[name].dtype, source[name].shape, None if zero else source[name])
        for i, (name, zero) in enumerate(chosen)
        if name in source
    ]
    (folder / "out").mkdir()
    shards = plan_shards(in_byte_order(new), data.draw(st.integers(1, 100)))
    write_copies(folder / "out", shards, {"format": "pt"})
    found = {
        k: v for shard in shards for k, v in read_header(folder / "out" / shard.file_name).tensors.items()
    }
    assert found.keys() == {tensor.name for tensor in new}
    for tensor in new:
        expected = read_all(tensor.source) if tensor.source else bytes(tensor.bytes)
        assert read_all(found[tensor.name]) == expected
        assert found[tensor.name].begin % sizes[tensor.dtype] == 0


def test_a_depthwise_map_is_a_few_runs(model_folder: Callable[..., Path]) -> None:
    from dusk.checkpoint import open_checkpoint
    from dusk.layers import LayerMap
    from dusk.scale import deeper_tensors

    base = open_checkpoint(model_folder("llama"))
    planned = runs(in_byte_order(deeper_tensors(base, LayerMap.depthwise(8))))
    assert len(planned) == 2
    assert planned[0].length == base.total_bytes
