"""Token stores from data files: tokenised, cut to the context or left out whole, and counted.

Rows are read, encoded and stored by the chunk. A store is laid out in memory, or in flat files in a cache
(`TokenCache`), where runs and the ranks of a run find it. Chunks are encoded by the tokenizer's own threads; the
result depends neither on their number nor on the size of a chunk.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dusk.checkpoint import OutputFolder
from dusk.data.encode import (
    Example,
    TextTokenizer,
    branches,
    encode_chats,
    encode_pairs,
    encode_texts,
    too_long,
)
from dusk.data.jinja_template import ChatTemplate
from dusk.data.kinds import Kind, conversation, pair
from dusk.data.packing import TokenDocument, TokenStore, build_store, cut
from dusk.data.readers import read_rows
from dusk.data.templates import Message
from dusk.data.token_files import FORMAT, TokenWriter, open_tokens
from dusk.errors import DataError, SettingError

_ROWS_AT_ONCE = 1000  # tokenizers are much faster on many texts
_CHARACTERS_AT_ONCE = 4_000_000  # but books are as large as thousands of rows

Row = tuple[dict[str, Any], str]
"""The fields of a row, and its domain."""


@dataclass
class Counts:
    """What became of the rows of a data set; goes into dusk.json. `by_file` are the documents of each file."""

    rows: int = 0
    documents: int = 0
    tokens: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    by_file: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The counts by name, of all files together."""
        return {
            "rows": self.rows,
            "documents": self.documents,
            "tokens": self.tokens,
            "left_out": dict(self.left_out),
        }


@dataclass(frozen=True)
class Reading(ABC):
    """How rows of one kind become documents of at most `sequence_length` tokens."""

    tokenizer: TextTokenizer
    sequence_length: int
    name: ClassVar[str]
    kinds: ClassVar[tuple[Kind, ...]]
    documents_per_unit: ClassVar[int] = 1

    @abstractmethod
    def documents(self, rows: Sequence[Row]) -> Iterator[list[TokenDocument] | str]:
        """For each row its documents, or why it is left out."""

    def key(self) -> dict[str, Any]:
        """All that documents depend on besides the rows."""
        return {"reading": self.name, "tokenizer": self.tokenizer.digest(), "length": self.sequence_length}


@dataclass(frozen=True)
class Texts(Reading):
    """Plain text, from rows `{"text"}`; longer documents are cut into pieces."""

    name = "text"
    kinds = (Kind.TEXT,)

    def documents(self, rows: Sequence[Row]) -> Iterator[list[TokenDocument] | str]:
        """The pieces of each text."""
        examples = encode_texts([fields["text"] for fields, _ in rows], self.tokenizer)
        for (fields, domain), example in zip(rows, examples, strict=True):
            size = len(fields["text"].encode())
            yield cut(TokenDocument(example.ids, example.trained, size, domain), self.sequence_length)


@dataclass(frozen=True)
class _Templated(Reading):
    template: ChatTemplate

    def key(self) -> dict[str, Any]:
        """The template too."""
        return super().key() | {"template": asdict(self.template)}


@dataclass(frozen=True)
class Chats(_Templated):
    """Conversations, from rows with `messages` or with `prompt` and `completion`; only answers are trained."""

    name = "chat"
    kinds = (Kind.CHAT, Kind.COMPLETION)

    def documents(self, rows: Sequence[Row]) -> Iterator[list[TokenDocument] | str]:
        """One document a row, unless it is too long."""
        talks = [conversation(fields) for fields, _ in rows]
        examples = encode_chats(talks, self.tokenizer, self.template)
        for messages, (_, domain), example in zip(talks, rows, examples, strict=True):
            reason = too_long(example, self.sequence_length)
            yield reason or [_document(example, domain, _answer_bytes(messages))]


@dataclass(frozen=True)
class Pairs(_Templated):
    """Preference pairs, from rows with `prompt`, `chosen` and `rejected`; a unit is one pair.

    What both answers follow is in it once (`branches`).
    """

    name = "pairs"
    kinds = (Kind.PREFERENCE,)
    documents_per_unit = 3

    def documents(self, rows: Sequence[Row]) -> Iterator[list[TokenDocument] | str]:
        """Three documents a row, unless it is too long."""
        examples = encode_pairs([pair(fields) for fields, _ in rows], self.tokenizer, self.template)
        for (_, domain), example in zip(rows, examples, strict=True):
            reason = too_long(example, self.sequence_length)
            yield reason or [_document(part, domain) for part in branches(example)]


def build(files: Sequence[Path], reading: Reading) -> tuple[TokenStore, Counts]:
    """A store in memory.

    Rows may name a `source`, the domain that evaluations report by; else it is the file's name.

    Raises:
        DataError: a file that cannot be read, rows without the needed fields, no row at all; or nothing fits.
    """
    counts = Counts()
    documents = [document for some in _documents(files, reading, counts) for document in some]
    _require_some(counts)
    return build_store(documents, documents_per_unit=reading.documents_per_unit), counts


def text_store(
    files: Sequence[Path], tokenizer: TextTokenizer, *, sequence_length: int
) -> tuple[TokenStore, Counts]:
    """A store of plain text in memory; see `Texts` and `build`."""
    return build(files, Texts(tokenizer, sequence_length))


def chat_store(
    files: Sequence[Path], tokenizer: TextTokenizer, template: ChatTemplate, *, sequence_length: int
) -> tuple[TokenStore, Counts]:
    """A store of conversations in memory; see `Chats` and `build`."""
    return build(files, Chats(tokenizer, sequence_length, template))


def pair_store(
    files: Sequence[Path], tokenizer: TextTokenizer, template: ChatTemplate, *, sequence_length: int
) -> tuple[TokenStore, Counts]:
    """A store of preference pairs in memory; see `Pairs` and `build`."""
    return build(files, Pairs(tokenizer, sequence_length, template))


@dataclass(frozen=True)
class TokenCache:
    """A folder of token stores, each in a folder of its own, named by all that it depends on."""

    folder: Path

    def made(self, files: Sequence[Path], reading: Reading) -> Path:
        """The folder of the store of these files, made if it is not there: whole or not at all.

        While another process is making it, this waits, and makes it only if the other fails.

        Raises:
            DataError: as `build`.
            OutputError: the disk refuses.
        """
        key = reading.key() | {
            "format": FORMAT,
            "files": [[_usual_domain(file), file_digest(file)] for file in files],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.folder / f"{reading.name}-{digest}"
        if not folder.exists():
            try:
                with OutputFolder(folder, waits=True) as output:
                    self._write(output.path, files, reading, key)
                    output.commit()
            except SettingError:
                if not folder.exists():  # else another process was faster, and its store is the same
                    raise
        return folder

    @staticmethod
    def opened(folder: Path) -> tuple[TokenStore, Counts]:
        """The store in a folder that `made` gave, mapped into memory.

        Raises:
            DataError: it was damaged since.
        """
        store, meta = open_tokens(folder)
        counted = meta["counts"]
        return store, Counts(**counted | {"left_out": Counter(counted["left_out"])})

    @staticmethod
    def _write(folder: Path, files: Sequence[Path], reading: Reading, key: dict[str, Any]) -> None:
        counts = Counts()
        with TokenWriter(folder, documents_per_unit=reading.documents_per_unit) as writer:
            for documents in _documents(files, reading, counts):
                writer.append(documents)
            _require_some(counts)
            writer.finish({"counts": counts.to_json() | {"by_file": counts.by_file}, "key": key})


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, as `sha256:...`."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _documents(files: Sequence[Path], reading: Reading, counts: Counts) -> Iterator[list[TokenDocument]]:
    """The documents by the chunk; fills `counts`."""
    for file in files:
        before = counts.documents
        for rows in _chunks(_rows(file, reading.kinds)):
            made: list[TokenDocument] = []
            for found in reading.documents(rows):
                if isinstance(found, str):
                    counts.left_out[found] += 1
                else:
                    made += found
            counts.rows += len(rows)
            counts.documents += len(made)
            counts.tokens += sum(len(document.ids) for document in made)
            yield made
        counts.by_file.append(counts.documents - before)


def _require_some(counts: Counts) -> None:
    if not counts.documents:
        reasons = ", ".join(f"{number} of {counts.rows}: {why}" for why, number in counts.left_out.items())
        raise DataError(
            f"no row is left to train on ({reasons or 'the files are empty'})",
            remedy="Raise sequence_length as far as the model's context goes, or give shorter rows.",
        )


def _document(example: Example, domain: str, text_bytes: int = 0) -> TokenDocument:
    return TokenDocument(example.ids, example.trained, text_bytes, domain)


def _answer_bytes(messages: Iterable[Message]) -> int:
    """The size of what is trained of a conversation."""
    return sum(len(message["content"].encode()) for message in messages if message["role"] == "assistant")


def _rows(file: Path, kinds: Sequence[Kind]) -> Iterator[Row]:
    for row in read_rows(file, kinds=kinds):
        yield row.fields, str(row.fields.get("source") or _usual_domain(file))


def _usual_domain(file: Path) -> str:
    return file.name.split(".")[0]


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """So many rows at once that tokenizers are fast, and so few that they are small."""
    some: list[Row] = []
    characters = 0
    for row in rows:
        some.append(row)
        characters += sum(len(value) for value in row[0].values() if isinstance(value, str))
        if len(some) >= _ROWS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
            yield some
            some, characters = [], 0
    if some:
        yield some
