"""`dusk.json`: what a folder was made from, how, and what came out. The model card is written from it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from dusk.checkpoint.folder import Checkpoint, read_json_object
from dusk.checkpoint.header import Header, TensorEntry
from dusk.checkpoint.hub import stated_digest
from dusk.errors import CheckpointError

MANIFEST_FILE = "dusk.json"
_MAPPINGS = ("layer_map", "settings", "versions", "results", "digests")
_FIELDS = {"dusk", "command", "inputs", "lineage", *_MAPPINGS}


@dataclass(frozen=True)
class Source:
    """An input: where it lay, what the user called it, its digest (`Checkpoint.digest`).

    `files` says of each weight file its size (`bytes`), the digest of its header (`header`), that of the whole
    file where the hub states it (`sha256`), and the `ranges` of bytes [begin, end) that were copied.
    """

    path: str
    name: str
    digest: str
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Checkpoint, copied: Iterable[TensorEntry] | None = None) -> Self:
        """A checkpoint as an input, of which only these tensors were `copied`.

        Then no byte of others is read: the digest is that of the headers where some were left out.
        """
        path, name = str(checkpoint.path.absolute()), checkpoint.name
        if copied is None:
            return cls(path, name, checkpoint.digest())
        entries = list(copied)
        files = {header.file.name: _told(header, entries) for header in checkpoint.headers}
        length = sum(end - begin for told in files.values() for begin, end in told["ranges"])
        whole = length == checkpoint.total_bytes
        return cls(path, name, checkpoint.digest() if whole else checkpoint.header_digest(), files)

    def to_json(self) -> dict[str, Any]:
        """The input as JSON values."""
        told = {"path": self.path, "name": self.name, "digest": self.digest}
        return {**told, "files": dict(self.files)} if self.files else told


def _told(header: Header, copied: Iterable[TensorEntry]) -> dict[str, Any]:
    """What is known of a weight file without reading its tensors."""
    ranges: list[list[int]] = []
    for begin, end in sorted({(entry.begin, entry.end) for entry in copied if entry.file == header.file}):
        if ranges and ranges[-1][1] >= begin:
            ranges[-1][1] = max(ranges[-1][1], end)
        else:
            ranges.append([begin, end])
    stated = stated_digest(header.file)
    told = {"bytes": header.file_bytes, "header": header.digest()}
    return {**told, **({"sha256": stated} if stated else {}), "ranges": ranges}


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of dusk and of those of these packages that are installed."""
    from importlib.metadata import PackageNotFoundError, version  # lazy: reads metadata of every package

    found = {}
    for package in ("dusk", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Manifest:
    """The fields of `dusk.json`; `layer_map` as `LayerMap.to_json` gives it, None where none was used.

    `results` holds what was measured, `lineage` the manifests of the inputs' own inputs where known,
    `digests` those of the folder's bytes where they were asked for (`verify` with `write`).
    """

    command: str
    inputs: tuple[Source, ...] = ()
    layer_map: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=installed_versions)
    results: Mapping[str, Any] = field(default_factory=dict)
    lineage: tuple[Mapping[str, Any], ...] = ()
    digests: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return {
            "dusk": self.versions.get("dusk", ""),
            "command": self.command,
            "inputs": [source.to_json() for source in self.inputs],
            "layer_map": dict(self.layer_map) if self.layer_map is not None else None,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "results": dict(self.results),
            **({"lineage": [dict(ancestor) for ancestor in self.lineage]} if self.lineage else {}),
            **({"digests": dict(self.digests)} if self.digests else {}),
        }

    def sealed(self, digests: Mapping[str, Mapping[str, str]]) -> Self:
        """The manifest with these digests of the folder, and one of everything else that it says."""
        return replace(self, digests={**digests, **self.own_digest()})

    def own_digest(self) -> dict[str, dict[str, str]]:
        """The SHA-256 (hex) of what it says besides digests, in the form of the folder's digests."""
        said = {key: value for key, value in self.to_json().items() if key != "digests"}
        text = json.dumps(said, sort_keys=True)
        return {"manifest": {MANIFEST_FILE: hashlib.sha256(text.encode()).hexdigest()}}


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Writes `dusk.json`, whole or not at all."""
    file = folder / MANIFEST_FILE
    write_json(file, manifest.to_json())
    return file


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, None where it has none; raises `CheckpointError` for one that is damaged."""
    file = folder / MANIFEST_FILE
    if not file.exists():
        return None
    data = read_json_object(file)
    faulty = [key for key in _MAPPINGS if not isinstance(data.get(key) or {}, Mapping)]
    if faulty:
        raise CheckpointError(f"{file} is no manifest of dusk: its {', '.join(faulty)} is no object.")
    try:
        return Manifest(
            command=data["command"],
            inputs=tuple(
                Source(item["path"], item["name"], item["digest"], item.get("files", {}))
                for item in data["inputs"]
            ),
            layer_map=data.get("layer_map"),
            settings=data.get("settings") or {},
            versions=data.get("versions") or {},
            results=data.get("results") or {},
            lineage=tuple(dict(ancestor) for ancestor in data.get("lineage") or ()),
            digests=data.get("digests") or {},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} is no manifest of dusk: {error!r}.") from error


def unknown_fields(folder: Path) -> list[str]:
    """What the folder's manifest says under names that no manifest has."""
    file = folder / MANIFEST_FILE
    return sorted(read_json_object(file).keys() - _FIELDS) if file.exists() else []


def ancestry(*folders: Path) -> tuple[Mapping[str, Any], ...]:
    """What the manifests of these input folders say about where they came from, nearest first, each once."""
    manifests = [manifest for folder in folders if (manifest := read_manifest(folder)) is not None]
    found: list[Mapping[str, Any]] = [
        {"command": manifest.command, "inputs": [replace(one, files={}).to_json() for one in manifest.inputs]}
        for manifest in manifests
    ]
    found += [ancestor for manifest in manifests for ancestor in manifest.lineage]
    return tuple(ancestor for i, ancestor in enumerate(found) if ancestor not in found[:i])


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object under a passing name first, so that a reader never sees half of it."""
    passing = file.with_name(f"{file.name}.writing")
    passing.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    passing.replace(file)
