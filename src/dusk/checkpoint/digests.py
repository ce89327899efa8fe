"""Digests of every byte of a model folder: with them in `dusk.json`, any single flipped bit is found.

SHA-256, which processors compute in hardware and the hub states for whole files. One digest a tensor tells
which tensor is damaged, and lets threads share the work.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dusk.checkpoint.folder import Checkpoint
from dusk.checkpoint.header import TensorEntry
from dusk.checkpoint.manifest import MANIFEST_FILE
from dusk.checkpoint.output import MARKER
from dusk.checkpoint.positioned import InputFile, InputFiles
from dusk.checkpoint.threads import in_threads

_BUFFER_BYTES = 1 << 20
_FREE = {MANIFEST_FILE, MARKER, "README.md"}  # the digests' own place, work in progress, words for people


def folder_digests(
    checkpoint: Checkpoint, known: Mapping[str, str] | None = None
) -> dict[str, dict[str, str]]:
    """The digests (hex) of `headers` by file, of `tensors` by name and of the other `files` by name.

    Tensors whose digests are `known` are not read.
    """
    found = dict(known or {})
    found |= _tensor_digests({name: e for name, e in checkpoint.tensors.items() if name not in found})
    weights = {header.file.name for header in checkpoint.headers}
    rest = sorted(file for file in checkpoint.path.rglob("*") if file.is_file())
    return {
        "headers": {header.file.name: header.digest() for header in checkpoint.headers},
        "tensors": {name: found[name] for name in checkpoint.tensors},
        "files": {
            name: _file_digest(file)
            for file in rest
            if (name := file.relative_to(checkpoint.path).as_posix()) not in weights | _FREE
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


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensor_digests(tensors: Mapping[str, TensorEntry]) -> dict[str, str]:
    found: dict[str, str] = {}
    with InputFiles() as files:
        opened = {entry.file: files[entry.file] for entry in tensors.values()}

        def work(share: Iterator[tuple[str, TensorEntry]]) -> None:
            buffer = memoryview(bytearray(_BUFFER_BYTES))
            for name, entry in share:
                found[name] = _tensor_digest(opened[entry.file], entry, buffer)

        in_threads(work, list(tensors.items()))
    return {name: found[name] for name in tensors}


def _tensor_digest(file: InputFile, entry: TensorEntry, buffer: memoryview) -> str:
    digest = hashlib.sha256()
    for begin in range(entry.begin, entry.end, len(buffer)):
        content = buffer[: min(len(buffer), entry.end - begin)]
        file.read_into(content, begin)
        digest.update(content)
    return digest.hexdigest()
