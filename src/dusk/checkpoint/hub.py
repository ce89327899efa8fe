"""From what the user wrote to a local folder: a path as it is, a hub id downloaded."""

import difflib
import re
from pathlib import Path

from dusk.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*"]
_WANTED_PICKLES = ["pytorch_model*.bin"]
_UNWANTED = ["*/*", "consolidated*", "*.fp16.*", "adapter_*"]


def resolve(model: str | Path, *, allow_pickle: bool = False) -> Path:
    """The local folder of a model given as a folder or as a hub id `name[@revision]`.

    With `allow_pickle` .bin files are downloaded where there are no safetensors.

    Raises `CheckpointError` when it is neither, naming the folders nearby that it could have meant.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file; a model is a folder with config.json and weights.")
    name = str(model)
    looks_local = isinstance(model, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_local or (path.parent.name and path.parent.is_dir()) or not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"There is no folder {name}.", remedy=_nearby(path))
    folder = _download(name, path, _WANTED)
    if allow_pickle and not any(folder.glob("*.safetensors")):
        folder = _download(name, path, _WANTED_PICKLES)
    return folder


def stated_digest(file: Path) -> str | None:
    """The SHA-256 (hex) that the hub states for a downloaded weight file: its name in the hub's cache."""
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) else None


def _nearby(path: Path) -> str:
    parent = path.parent
    folders = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    close = difflib.get_close_matches(path.name, folders, n=3, cutoff=0.5)
    if close:
        return f"Nearby there is {', '.join(str(parent / name) for name in close)}."
    place = parent.absolute()
    where = f"{place} holds no similar folder" if folders else f"Nor is there a folder in {place}"
    return f"{where}; a hub id has the form owner/name or owner/name@revision."


def _download(name: str, path: Path, wanted: list[str]) -> Path:
    from huggingface_hub import constants, snapshot_download  # lazy: 0.3 s that a local folder does not need
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RevisionNotFoundError

    repo, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repo, revision=revision or None, allow_patterns=wanted, ignore_patterns=_UNWANTED
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: the hub gives it to those who accepted its conditions.",
            remedy=f"Accept them at {constants.ENDPOINT}/{repo}, then `hf auth login` or set HF_TOKEN.",
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"The hub has {repo}, but no revision {revision} of it.", remedy="Name a branch, tag or commit."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        hidden = " A private one needs `hf auth login` or HF_TOKEN." if status in (401, 403, 404) else ""
        reason = f"the hub does not give it ({status})"
        remedy = f"{_nearby(path)}{hidden}"
        raise CheckpointError(f"{name} is no folder here, and {reason}.", remedy=remedy) from error
    except Exception as error:  # the errors of a connection are those of whatever HTTP library is in use
        reason = f"the hub cannot be reached ({type(error).__name__})"
        raise CheckpointError(f"{name} is no folder here, and {reason}.", remedy=_nearby(path)) from error
    return Path(folder)
