"""Token stores as flat files: appended while data are read, and mapped into memory to be trained on.

A folder holds one file for each array of a `TokenStore`, little-endian and without a header, and a meta.json with
the sizes that they must have. Memory while writing is that of one chunk, and of a number for each document's
domain; of a mapped store it is what is being read.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dusk.data.packing import TokenDocument, TokenStore
from dusk.errors import DataError

FORMAT = 1
_META = "meta.json"
_FILES = {
    "tokens": ("tokens.i32", np.dtype("<i4")),
    "trained": ("trained.u8", np.dtype(np.bool_)),
    "offsets": ("offsets.i64", np.dtype("<i8")),
    "text_bytes": ("text_bytes.i64", np.dtype("<i8")),
    "domain": ("domain.i32", np.dtype("<i4")),
}


class TokenWriter:
    """A context in which documents are appended to the files in `folder`; `finish` makes them a store."""

    def __init__(self, folder: Path, *, documents_per_unit: int) -> None:
        self.folder, self.documents_per_unit = folder, documents_per_unit
        self._open = ExitStack()
        self._numbers: dict[str, int] = {}  # of the domains, in the order in which they come
        self._tokens = self._documents = 0

    def __enter__(self) -> Self:
        self._files = {
            array: self._open.enter_context((self.folder / name).open("wb"))
            for array, (name, _) in _FILES.items()
        }
        self._put("offsets", [0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def append(self, documents: Sequence[TokenDocument]) -> None:
        """Lay documents behind those that are there."""
        for document in documents:
            self._put("tokens", document.ids)
            self._put("trained", document.trained)
        ends = self._tokens + np.cumsum([len(document.ids) for document in documents], dtype=np.int64)
        self._put("offsets", ends)
        self._put("text_bytes", [document.text_bytes for document in documents])
        numbers = [self._numbers.setdefault(document.domain, len(self._numbers)) for document in documents]
        self._put("domain", numbers)
        self._tokens = int(ends[-1]) if documents else self._tokens
        self._documents += len(documents)

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Close the files, number the domains by their names, and write meta.json, `notes` in it."""
        self._open.close()
        domains = sorted(self._numbers)
        by_name = np.array([domains.index(name) for name in self._numbers], np.int32)
        file = self.folder / _FILES["domain"][0]
        if by_name.tolist() != list(range(len(domains))):
            by_name[np.fromfile(file, "<i4")].astype("<i4").tofile(file)
        meta = {
            "format": FORMAT,
            "tokens": self._tokens,
            "documents": self._documents,
            "documents_per_unit": self.documents_per_unit,
            "domains": domains,
            **notes,
        }
        (self.folder / _META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")

    def _put(self, array: str, values: Sequence[Any] | npt.NDArray[Any]) -> None:
        self._files[array].write(np.asarray(values, _FILES[array][1]).tobytes())


def open_tokens(folder: Path) -> tuple[TokenStore, dict[str, Any]]:
    """The store in `folder`, mapped into memory and read-only, and its meta.json.

    Raises:
        DataError: files that are not there, or have not the sizes that meta.json names.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / _META).read_text(encoding="utf-8"))
        tokens, documents = meta["tokens"], meta["documents"]
        lengths = {"tokens": tokens, "trained": tokens, "offsets": documents + 1}
        arrays = {array: _mapped(folder, array, lengths.get(array, documents)) for array in _FILES}
        store = TokenStore(
            **arrays, domains=tuple(meta["domains"]), documents_per_unit=meta["documents_per_unit"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is no whole token store: {error}",
            remedy="Remove the folder; it is made again from the data.",
        ) from error
    return store, meta


def _mapped(folder: Path, array: str, length: int) -> npt.NDArray[Any]:
    name, kind = _FILES[array]
    size = (folder / name).stat().st_size
    if size != length * kind.itemsize:
        raise ValueError(f"{name} has {size:,} bytes and should have {length * kind.itemsize:,}")
    return np.asarray(np.memmap(folder / name, kind, mode="r", shape=(length,)))
