"""The hub's data sets from a local folder, for the harness's own tasks.

What a task asks of the hub (`allenai/ai2_arc`, `ARC-Challenge`) is looked for under the hub's names and under
short ones, and handed out with the hub's fields, so that the task builds the very requests it always builds.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from dusk.data.files import SUFFIXES
from dusk.data.readers import read_rows
from dusk.errors import DataError

Row = dict[str, Any]

_load_from_files = datasets.load_dataset  # as it is before this module takes its place
_PACKAGED = {"arrow", "csv", "json", "pandas", "parquet", "text"}  # these name files themselves


@dataclass(frozen=True)
class Layout:
    """How a data set of the hub may lie in a folder under a short name.

    `folder` may hang on the config's name; `files` are other names of a split's file; `config_field` is the
    field by which the rows of one file are told apart; `row` gives a row the hub's fields.
    """

    folder: str | Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    config_field: str | None = None
    row: Callable[[Row], Row] = lambda row: row

    def folder_of(self, config: str | None) -> str | None:
        """The short name for a config; None if it has none."""
        return self.folder if isinstance(self.folder, str) else self.folder.get(config or "")


def hellaswag_row(row: Row) -> Row:
    """The hub's fields of a row that has them, or has the `query`, `choices` and `gold` that the task makes.

    The task cleans texts, and a text cleaned twice may lose a space more: these fields clean to what is given.
    """
    if "query" not in row:
        return row
    activity, _, context = row["query"].partition(": ")
    return {
        "ind": row.get("ind", -1),
        "activity_label": f"[]{_wide(activity)}",
        "ctx_a": f"{_wide(context)}[]",
        "ctx_b": "",
        "endings": [f"[]{_wide(ending)}[]" for ending in row["choices"]],
        "label": str(row["gold"]),
    }


def _wide(text: str) -> str:
    """Runs of spaces twice as long, since cleaning halves them; the brackets beside it keep its ends."""
    return re.sub(" {2,}", lambda run: run[0] * 2, text)


_MMLU = Layout("mmlu", config_field="subject")

LAYOUTS: dict[str, Layout] = {
    "ai2_arc": Layout({"ARC-Challenge": "arc_challenge", "ARC-Easy": "arc_easy"}),
    "gsm8k": Layout("gsm8k"),
    "hellaswag": Layout("hellaswag", files={"train": "fewshot"}, row=hellaswag_row),
    "mmlu": _MMLU,
    "mmlu_no_train": _MMLU,
    "truthful_qa": Layout("truthfulqa", files={"validation": "multiple_choice"}),
    "winogrande": Layout("winogrande", files={"train": "train_xl"}),
}


class LocalDatasets:
    """Stands in for `datasets.load_dataset`, with the folders given in place of the hub."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.used: dict[Path, str] = {}
        self._rows: dict[tuple[Path, str | None], dict[Any, list[Row]]] = {}

    @property
    def digest(self) -> str:
        """Of the content of all files that were used so far."""
        return hashlib.sha256("".join(sorted(self.used.values())).encode()).hexdigest()[:16]

    def load(
        self, path: str, name: str | None = None, *_: Any, split: str | None = None, **options: Any
    ) -> Any:
        """The splits of a data set, or one of them; raises `DataError` with what to put where."""
        if path in _PACKAGED:
            return _load_from_files(path, name, split=split, **options)
        layout = LAYOUTS.get(path.rpartition("/")[2].lower(), Layout(path))
        places, command = self._wanted(path, name, layout)
        found = _Splits(path, name, places)
        for folder, by_field in self._places(path, name, layout):
            for split_name, files in _files(folder, layout).items():
                config = name if by_field else None
                rows = [
                    layout.row(row) for file in files for row in self._read(file, by_field).get(config, [])
                ]
                if rows and split_name not in found:
                    found[split_name] = datasets.Dataset.from_list(rows)
        if not found:
            raise _absent(path, name, places, command)
        return found if split is None else found[split]

    def _places(self, path: str, config: str | None, layout: Layout) -> Iterator[tuple[Path, str | None]]:
        """Folders that may hold the data set, and the field that tells its configs apart there."""
        own, _, short = path.rpartition("/")
        for folder in self.folders:
            for base in dict.fromkeys([folder / own / short, folder / short]):
                if config:
                    yield base / config, None
                yield from ((base / below, None) for below in ("data", ".") if not layout.config_field)
            named = layout.folder_of(config)
            if named:
                yield folder / named, layout.config_field

    def _wanted(self, path: str, config: str | None, layout: Layout) -> tuple[str, str]:
        """Where the data set is looked for first, as people say it, and the command that fetches it there."""
        named = layout.folder_of(config)
        folder = self.folders[0]
        hub = folder / path / (config or "")
        short = [folder / named] if named and named != path else []
        places = " or ".join(str(place) for place in [*short, hub])
        return places, f"hf download {path} --repo-type dataset --local-dir {folder / path}"

    def _read(self, file: Path, by_field: str | None) -> dict[Any, list[Row]]:
        """The rows of a file by their config; all under None where no field tells."""
        if (file, by_field) not in self._rows:
            groups: dict[Any, list[Row]] = defaultdict(list)
            for row in read_rows(file):
                groups[row.fields.get(by_field) if by_field else None].append(row.fields)
            self._rows[file, by_field] = dict(groups)
            with file.open("rb") as opened:
                self.used[file] = hashlib.file_digest(opened, "sha256").hexdigest()
        return self._rows[file, by_field]


class _Splits(datasets.DatasetDict):  # type: ignore[misc]  # datasets is untyped here
    """The splits found; another one is asked for by name and place."""

    def __init__(self, path: str, config: str | None, places: str) -> None:
        super().__init__()
        self.asked = path, config, places

    def __missing__(self, split: str) -> Any:
        path, config, places = self.asked
        raise DataError(
            f"data set {_called(path, config)}: there is no file for its split {split}",
            remedy=f"Put {split}.jsonl (or .jsonl.gz, .parquet) into {places}.",
        )


def _absent(path: str, config: str | None, places: str, command: str) -> DataError:
    return DataError(
        f"data set {_called(path, config)} is not in the folder of --data",
        remedy=f"Put its splits (train.jsonl, validation.jsonl, test.jsonl; .gz and .parquet too) into {places}, "
        f"fetch it with `{command}`, or leave --data out to read it from the hub.",
    )


def _called(path: str, config: str | None) -> str:
    return f"{path} ({config})" if config else path


def _files(folder: Path, layout: Layout) -> dict[str, list[Path]]:
    """The files of each split in a folder: `train.jsonl.gz`, or `train-00000-of-00002.parquet` and its next."""
    split_of = {name: split for split, name in layout.files.items()}
    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        suffix = next((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), None)
        if suffix is not None and file.is_file():
            stem = re.sub(r"-\d+-of-\d+$", "", file.name.removesuffix(suffix))
            found[split_of.get(stem, stem)].append(file)
    return found
