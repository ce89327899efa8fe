"""The folder that a data command makes: `train.jsonl`, `dusk.json` and a card, whole or not at all.

The card says what the set was made from (digests, licences), by what settings, and how many rows came in, were
kept, and were left out for each reason.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dusk.checkpoint import (
    Manifest,
    OutputFolder,
    Source,
    ancestry,
    file_license,
    write_manifest,
)
from dusk.checkpoint.card import CARD_FILE, UNKNOWN_LICENSE
from dusk.checkpoint.output import refuse_existing
from dusk.data.collect import Tally
from dusk.data.stores import file_digest

ROWS_FILE = "train.jsonl"
_SCRATCH = "work"
_NON_COMMERCIAL = "-nc"
_WORK_FORMAT = 2  # another number for other parts or indexes: what an older version began is begun anew


class DataFolder:
    """A data set in the making.

    Work that was stopped is continued by the same settings on the same files: `scratch` is kept until the end.

    Args:
        out: the folder; it must not exist.
        command: what the card says it was made by.
        files: what it is made from.
        settings: what decides the result.
        licenses: what is known of the files' licences without them; else their own folders are asked.
        rejects: a file for the rows left out.

    Raises:
        SettingError: `out` or `rejects` exists.
    """

    def __init__(
        self,
        out: str | Path,
        command: str,
        files: Sequence[Path],
        settings: Mapping[str, Any],
        *,
        licenses: Mapping[Path, str] | None = None,
        rejects: str | Path | None = None,
    ) -> None:
        refuse_existing(Path(out))
        self.command, self.settings, self.files = command, dict(settings), list(files)
        self.inputs = tuple(Source(str(file.absolute()), file.name, file_digest(file)) for file in files)
        self.licenses = {file: (licenses or {}).get(file) or file_license(file) for file in files}
        self.rejects_file = Path(rejects) if rejects else None
        if self.rejects_file is not None:
            refuse_existing(self.rejects_file)
        digests = [one.digest for one in self.inputs]
        told = json.dumps([_WORK_FORMAT, command, self.settings, digests], sort_keys=True)
        self.output = OutputFolder(out, hashlib.sha256(told.encode()).hexdigest())
        self._rejects: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.output.__enter__()
        if self.rejects_file is not None:
            self._rejects = self._partial.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rejects is not None:
            self._rejects.close()
            with suppress(FileNotFoundError):
                self._partial.unlink()
        self.output.__exit__(kind, error, trace)

    @property
    def path(self) -> Path:
        """Where it is made."""
        return self.output.path

    @property
    def scratch(self) -> Path:
        """A folder that is gone when the set is whole."""
        folder = self.path / _SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def parts(self) -> Path:
        """The folder of a pass's parts."""
        return self.scratch / "parts"

    @property
    def rows(self) -> Path:
        """The file of rows."""
        return self.path / ROWS_FILE

    @property
    def rejects(self) -> IO[bytes] | None:
        """Where rows left out are written, if anywhere."""
        return self._rejects

    def finish(self, tally: Tally, **more: Any) -> dict[str, Any]:
        """Write manifest and card, and put the folder in its place. Returns what they tell as results."""
        licenses = sorted(set(self.licenses.values()))
        results = {**tally.to_json(), **more, "licenses": licenses}
        folders = {file.absolute().parent for file in self.files}
        manifest = Manifest(
            command=self.command,
            inputs=self.inputs,
            settings=self.settings,
            results=results,
            lineage=ancestry(*sorted(folders)),
        )
        write_manifest(self.path, manifest)
        (self.path / CARD_FILE).write_text(self._card(results), encoding="utf-8")
        shutil.rmtree(self.scratch)
        if self._rejects is not None and self.rejects_file is not None:
            self._rejects.flush()
            os.fsync(self._rejects.fileno())
            self._partial.replace(self.rejects_file)
        out = self.output.commit()
        return {"out": str(out), **results}

    @property
    def _partial(self) -> Path:
        assert self.rejects_file is not None
        return self.rejects_file.with_name(f"{self.rejects_file.name}.partial")

    def _card(self, results: Mapping[str, Any]) -> str:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # lazy: only cards need it

        environment = Environment(
            loader=PackageLoader("dusk.data", "."),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # markdown
        )
        known = [one for one in results["licenses"] if one != UNKNOWN_LICENSE]
        text = environment.get_template("card.md.jinja").render(
            title=self.output.out.name,
            command=self.command,
            license=known[0] if len(known) == len(results["licenses"]) == 1 else None,
            non_commercial=sorted(one for one in known if _NON_COMMERCIAL in one.lower()),
            inputs=[
                (one.name, self.licenses[file], one.digest)
                for one, file in zip(self.inputs, self.files, strict=True)
            ],
            settings=self.settings,
            results=results,
            rows_file=ROWS_FILE,
        )
        return text.rstrip() + "\n"
