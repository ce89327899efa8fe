"""Digests of what scores belong to: a model's content, and settings."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dusk.errors import CheckpointError

_PATTERNS = ("*config.json", "*.safetensors", "tokenizer*", "special_tokens*", "vocab*", "merges*", "*.jinja")
_LETTERS = 16


def digest_of(value: Any) -> str:
    """SHA-256 of plain data as sorted JSON, 16 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_LETTERS]


def model_digest(folder: Path) -> str:
    """SHA-256 over all files of a model that can move a score, 16 hex digits."""
    files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
    try:
        with ThreadPoolExecutor(4) as pool:  # hashing lets other threads run
            digests = list(pool.map(_file_digest, files))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    total = hashlib.sha256()
    for path, digest in zip(files, digests, strict=True):
        total.update(f"{path.name}\0".encode() + digest)
    return total.hexdigest()[:_LETTERS]


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
