"""Data files by what the user wrote: paths as they are, data sets of the hub downloaded."""

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from dusk.data.files import JSON, SUFFIXES, require_format
from dusk.errors import DataError

_HUB_ID = re.compile(
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<rev>[\w./-]+))?(:(?P<files>.+))?", re.ASCII
)
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


def data_files(named: Sequence[str | Path]) -> list[Path]:
    """The files of paths and hub ids, in order.

    A folder that dusk has made stands for its `train.jsonl`. A hub id is `owner/name[@revision][:pattern]`; the
    pattern chooses among its files (`data/train_prefs-*`), and without one those of the training split are
    taken: whose names hold "train", or all where none do; .json files where there are no others.

    Raises:
        DataError: a file or data set that is not there, or a set without a file that can be read.
    """
    files = [file for name in named for file in _files(name)]
    for file in files:
        require_format(file)
    return files


def is_hub_id(name: str) -> bool:
    """Whether this could be a data set of the hub, and is no file by its name."""
    return _HUB_ID.fullmatch(name) is not None and not name.endswith(SUFFIXES)


def _files(name: str | Path) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir() and (path / "train.jsonl").is_file():
        return [path / "train.jsonl"]
    match = _HUB_ID.fullmatch(str(name))
    is_local = path.exists() or isinstance(name, Path) or not is_hub_id(name) or path.parent.is_dir()
    if is_local or match is None:
        return [path]
    return _downloaded(match["id"], match["rev"], match["files"])


def _downloaded(repo: str, revision: str | None, pattern: str | None) -> list[Path]:
    from huggingface_hub import HfApi, snapshot_download  # lazy: 0.3 s that a local file does not need

    try:
        listed = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision)
        wanted = chosen(listed, pattern)
        folder = snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=wanted)
    except Exception as error:  # those of the hub, and of whatever HTTP library is in use
        raise DataError(
            f"{repo}: there is no such file here, and the hub does not give it as a data set "
            f"({type(error).__name__}).",
            remedy="A hub id has the form owner/name[@revision][:pattern].",
        ) from error
    if not wanted:
        raise DataError(
            f"{repo}: no file of the set can be read{f' of those named {pattern}' if pattern else ''}.",
            problems=[f"it has {name}" for name in listed[:20]],
            remedy=f"These formats are read: {', '.join(SUFFIXES)}.",
        )
    return [Path(folder) / name for name in wanted]


def chosen(names: Sequence[str], pattern: str | None) -> list[str]:
    """The data files of a set that the pattern names, or those of its training split."""
    readable = sorted(name for name in names if name.endswith(SUFFIXES))
    if pattern is not None:
        return [name for name in readable if fnmatch(name, pattern)]
    lines = [name for name in readable if not name.endswith(JSON)]
    readable = lines or [name for name in readable if name.rpartition("/")[2] not in _NO_ROWS]
    return [name for name in readable if "train" in name] or readable
