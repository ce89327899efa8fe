"""Digests of every byte of a model folder: with them in `dusk.json`, any single flipped bit is found.

SHA-256, which processors compute in hardware and the hub states for whole files. One digest a tensor tells
which tensor is damaged, and lets threads share the work.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from dusk.checkpoint.copies import Sources, read_at
from dusk.checkpoint.folder import Checkpoint
from dusk.checkpoint.header import LENGTH_BYTES, TensorEntry
from dusk.checkpoint.manifest import MANIFEST_FILE
from dusk.checkpoint.threads import in_threads

_BUFFER_BYTES = 1 << 20
_FREE = {MANIFEST_FILE, "README.md"}  # the digests' own place, and words for people


def folder_digests(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    """The digests (hex) of `headers` by file, of `tensors` by name and of the other `files` by name."""
    weights = {header.file.name for header in checkpoint.headers}
    rest = sorted(file for file in checkpoint.path.rglob("*") if file.is_file())
    return {
        "headers": {header.file.name: _header_digest(header.text) for header in checkpoint.headers},
        "tensors": _tensor_digests(checkpoint.tensors),
        "files": {
            name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in rest
            if (name := str(file.relative_to(checkpoint.path))) not in weights | _FREE
            and not name.endswith(".safetensors")
        },
    }


def differences(stated: Mapping[str, Any], found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What is not what `dusk.json` says, by name."""
    problems = []
    for kind, digests in found.items():
        wanted = stated.get(kind)
        if not isinstance(wanted, Mapping):
            problems.append(f"dusk.json has no digests of {kind}")
            continue
        problems += [f"{name} is gone" for name in wanted if name not in digests]
        problems += [
            f"{name} is not what it was when its digest was written"
            for name, digest in digests.items()
            if name in wanted and wanted[name] != digest
        ]
        if kind == "tensors":
            problems += [f"{name} has no digest in dusk.json" for name in digests if name not in wanted]
    return problems


def _header_digest(text: bytes) -> str:
    return hashlib.sha256(len(text).to_bytes(LENGTH_BYTES, "little") + text).hexdigest()


def _tensor_digests(tensors: Mapping[str, TensorEntry]) -> dict[str, str]:
    found: dict[str, str] = {}
    with Sources() as sources:
        handles = {entry.file: sources[entry.file] for entry in tensors.values()}

        def work(share: Iterator[tuple[str, TensorEntry]]) -> None:
            buffer = memoryview(bytearray(_BUFFER_BYTES))
            for name, entry in share:
                found[name] = _tensor_digest(handles[entry.file], entry, buffer)

        in_threads(work, list(tensors.items()))
    return {name: found[name] for name in tensors}


def _tensor_digest(handle: int, entry: TensorEntry, buffer: memoryview) -> str:
    digest = hashlib.sha256()
    for begin in range(entry.begin, entry.end, len(buffer)):
        content = buffer[: min(len(buffer), entry.end - begin)]
        read_at(handle, content, begin)
        digest.update(content)
    return digest.hexdigest()
