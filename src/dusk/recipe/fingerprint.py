"""What a finished stage was made from, as one digest.

It covers the stage's own settings, the fingerprints of the stages that it uses, the content of outside
files, and the version of what did the work. A stage whose output carries the same fingerprint need not
be done again.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dusk import __version__
from dusk.checkpoint.shipped import locate
from dusk.recipe.kinds import KINDS
from dusk.recipe.recipe import Recipe, stage_of
from dusk.recipe.settings import StageSettings

_READ_WHOLE_BYTES = 256 * 2**20  # larger outside files count by size and time of change


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """The fingerprint of every stage of the recipe."""
    known: dict[str, str] = {}
    for name, settings in recipe.stages.items():
        content = {
            "stage": name,
            "kind": settings.kind,
            "revision": KINDS[settings.kind].revision,
            "dusk": __version__,
            "settings": _with_digests(settings, known),
        }
        known[name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return known


def _with_digests(settings: StageSettings, known: Mapping[str, str]) -> dict[str, Any]:
    """The settings, with every reference followed by the digest of what it names."""
    given = settings.given()
    for how in ("threads", "jobs", "workers", "token_cache"):
        given.pop(how, None)
    for key in settings.references():
        value = given.get(key)
        if isinstance(value, list):
            given[key] = [_digest(text, known) for text in value]
        elif isinstance(value, str):
            given[key] = _digest(value, known)
    if settings.kind == "model":
        given["content"] = path_digest(Path(locate(str(given["path"]))))
    return given


def _digest(text: str, known: Mapping[str, str]) -> list[str]:
    stage = stage_of(text, known)
    if stage is not None:
        return [text, known[stage]]
    return [path_digest(Path(text)) or text]


def path_digest(path: Path) -> str:
    """The digest of a file's or a folder's content; empty where nothing is there (a hub id)."""
    total = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if not path.exists():
        return ""
    for file in files:
        facts = file.stat()
        total.update(f"{file.relative_to(path)}\0{facts.st_size}\0".encode())
        if facts.st_size > _READ_WHOLE_BYTES:
            total.update(str(facts.st_mtime_ns).encode())
            continue
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
