"""The header of a safetensors file, read without trusting a byte of it.

The format (huggingface/safetensors, README "Format"): 8 bytes little-endian header length N, N bytes of
JSON `{name: {"dtype", "shape", "data_offsets": [begin, end]}}` with an optional `__metadata__` of
strings, then the data. Offsets count from the end of the header; the tensors cover the data without
holes or overlaps. The header may be padded with spaces at its end.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from dusk.errors import CheckpointError

LENGTH_BYTES = 8
HEADER_LIMIT_BYTES = 100_000_000  # the limit of the format's own reader
PROBLEM_LIMIT = 20

DTYPE_BITS = {
    **dict.fromkeys(["F64", "I64", "U64", "C64"], 64),
    **dict.fromkeys(["F32", "I32", "U32"], 32),
    **dict.fromkeys(["F16", "BF16", "I16", "U16"], 16),
    **dict.fromkeys(["I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"], 8),
    **dict.fromkeys(["F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies: `begin` and `end` are byte positions in `file`, counted from its start."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        """The tensor's size in bytes."""
        return self.end - self.begin

    @property
    def elements(self) -> int:
        """The number of its elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A file's tensors in the order of their bytes, and the text that described them."""

    file: Path
    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    text: bytes
    file_bytes: int

    def digest(self) -> str:
        """The SHA-256 (hex) of the header and of its length in front."""
        return hashlib.sha256(len(self.text).to_bytes(LENGTH_BYTES, "little") + self.text).hexdigest()


def read_header(file: Path) -> Header:
    """The header of a safetensors file.

    Raises `CheckpointError` that lists every fault found: a length beyond the file or the format's
    limit, text that is no JSON object, names twice, unknown types, sizes that do not fit shape and type,
    offsets outside the file, overlaps, holes, and data that no tensor covers.
    """
    text, file_bytes = _read_text(file)
    fields = _parse_text(file, text)
    data_begin = LENGTH_BYTES + len(text)
    problems: list[str] = []
    metadata = _metadata(fields.pop("__metadata__", None), problems)
    tensors: dict[str, TensorEntry] = {}
    for name, value in fields.items():
        try:
            tensors[name] = _entry(file, value, data_begin, file_bytes)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if not problems:
        tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
        problems += _layout_problems(tensors, data_begin, file_bytes)
    if problems:
        raise _broken(file, problems)
    return Header(file, tensors, metadata, text, file_bytes)


def shown(problems: Sequence[str]) -> list[str]:
    """At most `PROBLEM_LIMIT` of these problems, and how many more there are."""
    rest = len(problems) - PROBLEM_LIMIT
    return [*problems[:PROBLEM_LIMIT], *([f"and {rest} more"] if rest > 0 else [])]


def _broken(file: Path, problems: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{file} is not a whole safetensors file.",
        problems=shown(problems),
        remedy="Download or save it again; it is damaged, cut short or was made by a faulty writer.",
    )


def _read_text(file: Path) -> tuple[bytes, int]:
    try:
        with file.open("rb") as stream:
            file_bytes = stream.seek(0, 2)
            stream.seek(0)
            prefix = stream.read(LENGTH_BYTES)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < LENGTH_BYTES:
                raise _broken(file, [f"{file_bytes} bytes are too few to hold a header"])
            if length > file_bytes - LENGTH_BYTES:
                raise _broken(file, [f"its header claims {length} bytes, the file has {file_bytes}"])
            if length > HEADER_LIMIT_BYTES:
                raise _broken(file, [f"a header of {length} bytes is over the limit, {HEADER_LIMIT_BYTES}"])
            return stream.read(length), file_bytes
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"the name {name!r} occurs twice")
        fields[name] = value
    return fields


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _parse_text(file: Path, text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _broken(file, ["its header does not begin with `{`"])
    try:
        fields = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise _broken(file, ["its header is nested too deeply"]) from None
    except ValueError as error:
        raise _broken(file, [f"its header is no JSON: {error}"]) from None
    if not isinstance(fields, dict):
        raise _broken(file, ["its header is no JSON object"])
    return fields


def _metadata(value: Any, problems: list[str]) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        problems.append("__metadata__ is no object of strings")
        return {}
    return value


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(_is_size(item) for item in value)


def _entry(file: Path, value: Any, data_begin: int, file_bytes: int) -> TensorEntry:
    """One tensor of the header; raises ValueError with the reason when it is none."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("needs exactly `dtype`, `shape` and `data_offsets`")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"unknown type {dtype!r}")
    if not _sizes(shape) or len(shape) > 64:
        raise ValueError(f"{str(shape)[:80]} is no shape")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{str(offsets)[:80]} are no offsets [begin, end]")
    begin, end = data_begin + offsets[0], data_begin + offsets[1]
    if end > file_bytes:
        raise ValueError(f"ends at byte {end}, the file has {file_bytes}: cut short?")
    bits = prod(shape) * DTYPE_BITS[dtype]
    if bits != (end - begin) * 8:
        raise ValueError(f"{dtype} of shape {shape} takes {bits / 8:g} bytes, its offsets hold {end - begin}")
    return TensorEntry(file, dtype, tuple(shape), begin, end)


def _layout_problems(tensors: dict[str, TensorEntry], data_begin: int, file_bytes: int) -> list[str]:
    """Holes and overlaps; `tensors` in the order of their bytes."""
    problems = []
    position, previous = data_begin, "the header"
    for name, entry in tensors.items():
        if entry.begin > position:
            problems.append(f"a hole of {entry.begin - position} bytes between {previous} and {name}")
        elif entry.begin < position:
            problems.append(f"{name} overlaps {previous} by {position - entry.begin} bytes")
        if entry.end >= position:
            position, previous = entry.end, name
    if position < file_bytes:
        problems.append(f"{file_bytes - position} bytes after {previous} belong to no tensor")
    return problems
