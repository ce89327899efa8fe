"""A model folder: its config, and where each of its tensors lies. Nothing but headers is read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dusk.checkpoint.header import Header, TensorEntry, read_header, shown
from dusk.checkpoint.hub import resolve
from dusk.checkpoint.layout import Layout, find_layout
from dusk.checkpoint.pickles import PICKLE_FILE, PICKLE_INDEX_FILE, read_pickle
from dusk.errors import CheckpointError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
JSON_LIMIT_BYTES = 100_000_000
WHOLE_DIGEST_BYTES = 32 << 20
_SAMPLE_BYTES = 64


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: `tensors` by name, and `layout`, the stack of its layers.

    `name` is what the user called it; `headers` are those of its weight files, in the order of the
    files' names; `unlisted` names tensors that lie in the files but not in the index.
    """

    path: Path
    name: str
    config: dict[str, Any]
    tensors: dict[str, TensorEntry]
    layout: Layout
    headers: tuple[Header, ...]
    unlisted: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """The number of stored elements; a tied output head is not stored and not counted."""
        return sum(entry.elements for entry in self.tensors.values())

    @property
    def total_bytes(self) -> int:
        """The size of all tensors in bytes."""
        return sum(entry.bytes for entry in self.tensors.values())

    def header_digest(self) -> str:
        """A digest of the config and of every file's name, size and header; no tensor is read."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for header in self.headers:
            digest.update(f"\0{header.file.name}\0{header.file_bytes}\0".encode())
            digest.update(header.text)
        return f"headers-sha256:{digest.hexdigest()}"

    def digest(self) -> str:
        """A digest that tells models of one shape apart.

        Of every byte for a small model (`sha256:`); for a large one of the headers and of 64 bytes at two
        places of each tensor (`sampled-sha256:`), which takes milliseconds and proves no integrity.
        """
        whole = self.total_bytes <= WHOLE_DIGEST_BYTES
        digest = hashlib.sha256(self.header_digest().encode())
        for header in self.headers:
            with header.file.open("rb") as stream:
                for entry in header.tensors.values():
                    for begin, length in [(entry.begin, entry.bytes)] if whole else _samples(entry):
                        stream.seek(begin)
                        digest.update(stream.read(length))
        return f"{'' if whole else 'sampled-'}sha256:{digest.hexdigest()}"


def _samples(entry: TensorEntry) -> list[tuple[int, int]]:
    middle = entry.begin + entry.bytes // 2
    return [(begin, min(_SAMPLE_BYTES, entry.end - begin)) for begin in (entry.begin, middle)]


def open_checkpoint(model: str | Path, *, allow_pickle: bool = False) -> Checkpoint:
    """The checkpoint in a local folder, or of a hub id `name[@revision]`.

    With `allow_pickle` also one of PyTorch's .bin files, where there are no safetensors (`read_pickle`).

    Raises `CheckpointError` for what is no model or not a whole one: no config, pickled or quantised
    weights, an index that names missing files or leaves its folder, headers with any fault.
    """
    path = resolve(model, allow_pickle=allow_pickle)
    config = read_config(path)
    headers, listed = _read_weights(path, allow_pickle=allow_pickle)
    tensors, unlisted = _gather(path, headers, listed)
    return Checkpoint(
        path, str(model), config, tensors, find_layout(config, tensors), tuple(headers), tuple(unlisted)
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; raises `CheckpointError` for none, and for a quantised model."""
    config = read_json_object(folder / CONFIG_FILE)
    quantization = config.get("quantization_config") or config.get("compression_config")
    if quantization:
        named = isinstance(quantization, dict) and quantization.get("quant_method")
        method = f" ({named})" if named else ""
        raise CheckpointError(
            f"{folder} is quantised{method}; dusk works on unquantised weights.",
            remedy="Use the bf16, f16 or f32 checkpoint that it was made from, and quantise the result.",
        )
    return config


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file; raises `CheckpointError` naming the file when it holds none."""
    try:
        if file.stat().st_size > JSON_LIMIT_BYTES:
            raise CheckpointError(f"{file} is over {JSON_LIMIT_BYTES} bytes: no config or index is so large.")
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{file.parent} is no model folder: it has no {file.name}.", remedy=_contents(file.parent)
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is no JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds no JSON object.")
    return value


def _contents(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())[:8] if folder.is_dir() else []
    return f"It holds {', '.join(names)}." if names else "It is empty."


def _read_weights(folder: Path, *, allow_pickle: bool) -> tuple[list[Header], dict[str, str] | None]:
    """The headers of the weight files; with an index, also which file it names for each tensor."""
    kinds = [(WEIGHTS_FILE, INDEX_FILE, read_header)]
    if allow_pickle:
        kinds.append((PICKLE_FILE, PICKLE_INDEX_FILE, read_pickle))
    for whole, index, read in kinds:
        if (folder / whole).exists():
            return [read(folder / whole)], None
        if (folder / index).exists():
            listed = _read_index(folder / index)
            return [read(folder / name) for name in sorted(set(listed.values()))], listed
    raise _no_weights(folder)


def _no_weights(folder: Path) -> CheckpointError:
    names = sorted(entry.name for entry in folder.iterdir())
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        return CheckpointError(
            f"{folder} holds its weights as pickles ({', '.join(pickled[:3])}), which can run any code.",
            remedy="Save them as safetensors: model.save_pretrained(folder) in transformers does it. "
            "`dusk scale --allow-pickle` reads their tensors and nothing else.",
        )
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        return CheckpointError(
            f"{folder} holds its weights as GGUF ({gguf[0]}).",
            remedy="Use the safetensors checkpoint that it was converted from.",
        )
    return CheckpointError(
        f"{folder} holds no weights: neither {WEIGHTS_FILE} nor {INDEX_FILE}.", remedy=_contents(folder)
    )


def _read_index(file: Path) -> dict[str, str]:
    suffix = Path(file.name.removesuffix(".index.json")).suffix
    weight_map = read_json_object(file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{file} has no `weight_map` from tensor names to files.")
    problems = []
    for name in sorted({str(value) for value in weight_map.values()}):
        reason = _unfit_file_name(name, suffix) or (
            "" if (file.parent / name).is_file() else "does not exist"
        )
        if reason:
            problems.append(f"{name!r} {reason}")
    if problems:
        raise CheckpointError(
            f"{file} names files that cannot be used.",
            problems=shown(problems),
            remedy="Every file must lie in the folder of the index, under its plain name.",
        )
    return weight_map


def _unfit_file_name(name: str, suffix: str) -> str:
    """Why an index may not name this file; empty when it may."""
    plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
    if not plain or name in {"", ".", ".."} or "\0" in name:
        return "leaves the folder"
    return "" if name.endswith(suffix) else f"is no {suffix[1:]} file"


def _gather(
    folder: Path, headers: list[Header], listed: Mapping[str, str] | None
) -> tuple[dict[str, TensorEntry], list[str]]:
    """The tensors of all files; with an index, those that it lists, each from the file it names."""
    if listed is None:
        return headers[0].tensors, []
    by_file = {header.file.name: header.tensors for header in headers}
    missing = [f"{name} is not in {file}" for name, file in listed.items() if name not in by_file[file]]
    if missing:
        raise CheckpointError(
            f"{folder / INDEX_FILE} does not fit its files.",
            problems=shown(missing),
            remedy="The files and the index belong to different saves; download or save them again.",
        )
    tensors = {
        name: entry
        for file, entries in by_file.items()
        for name, entry in entries.items()
        if listed.get(name) == file
    }
    unlisted = [name for entries in by_file.values() for name in entries if name not in listed]
    return tensors, unlisted
