"""Token stores from data files: tokenised, cut to the context or left out whole, and counted."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from dusk.data.encode import (
    Example,
    TextTokenizer,
    branches,
    encode_chats,
    encode_pairs,
    encode_texts,
    too_long,
)
from dusk.data.kinds import Kind, conversation, pair
from dusk.data.packing import TokenDocument, TokenStore, build_store, cut
from dusk.data.readers import read_rows
from dusk.data.templates import Message, Template
from dusk.errors import DataError

T = TypeVar("T")

_ROWS_AT_ONCE = 1000


@dataclass
class Counts:
    """What became of the rows of a data set; goes into dusk.json."""

    rows: int = 0
    documents: int = 0
    tokens: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Counts") -> "Counts":
        """The counts of two data sets together."""
        return Counts(
            self.rows + other.rows,
            self.documents + other.documents,
            self.tokens + other.tokens,
            self.left_out + other.left_out,
        )

    def to_json(self) -> dict[str, Any]:
        """The counts by name."""
        return asdict(self) | {"left_out": dict(self.left_out)}


def text_store(
    files: Sequence[Path], tokenizer: TextTokenizer, *, sequence_length: int
) -> tuple[TokenStore, Counts]:
    """A store of plain text, from rows `{"text"}`; longer documents are cut into pieces of `sequence_length`.

    Rows may name a `source`, the domain that evaluations report by; else it is the file's name.

    Raises:
        DataError: a file that cannot be read, rows without text, no row at all.
    """
    counts = Counts()
    documents: list[TokenDocument] = []
    rows = ((fields["text"], domain) for fields, domain in _rows(files, [Kind.TEXT]))
    for some in _chunks(rows):
        examples = encode_texts([words for words, _ in some], tokenizer)
        for (words, domain), example in zip(some, examples, strict=True):
            whole = TokenDocument(example.ids, example.trained, len(words.encode()), domain)
            documents += cut(whole, sequence_length)
            counts.rows += 1
    return _built(documents, counts, 1)


def chat_store(
    files: Sequence[Path], tokenizer: TextTokenizer, template: Template, *, sequence_length: int
) -> tuple[TokenStore, Counts]:
    """A store of conversations, from rows with `messages` or with `prompt` and `completion`.

    Only answers are trained. What is longer than `sequence_length` is left out whole, and counted.

    Raises:
        DataError: as `text_store`; or nothing fits.
    """
    counts = Counts()
    documents: list[TokenDocument] = []
    kinds = [Kind.CHAT, Kind.COMPLETION]
    rows = ((conversation(fields), domain) for fields, domain in _rows(files, kinds))
    for some in _chunks(rows):
        examples = encode_chats([messages for messages, _ in some], tokenizer, template)
        for (messages, domain), example in zip(some, examples, strict=True):
            counts.rows += 1
            reason = too_long(example, sequence_length)
            if reason:
                counts.left_out[reason] += 1
            else:
                documents.append(_document(example, domain, _answer_bytes(messages)))
    return _built(documents, counts, 1)


def pair_store(
    files: Sequence[Path], tokenizer: TextTokenizer, template: Template, *, sequence_length: int
) -> tuple[TokenStore, Counts]:
    """A store of preference pairs, from rows with `prompt`, `chosen` and `rejected`; a unit is one pair.

    What both answers follow is in it once (`branches`).

    Raises:
        DataError: as `chat_store`.
    """
    counts = Counts()
    documents: list[TokenDocument] = []
    rows = ((pair(fields), domain) for fields, domain in _rows(files, [Kind.PREFERENCE]))
    for some in _chunks(rows):
        examples = encode_pairs([both for both, _ in some], tokenizer, template)
        for (_, domain), example in zip(some, examples, strict=True):
            counts.rows += 1
            reason = too_long(example, sequence_length)
            if reason:
                counts.left_out[reason] += 1
            else:
                documents += [_document(part, domain) for part in branches(example)]
    return _built(documents, counts, 3)


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes, as `sha256:...`."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _built(documents: list[TokenDocument], counts: Counts, per_unit: int) -> tuple[TokenStore, Counts]:
    if not documents:
        reasons = ", ".join(f"{number} of {counts.rows}: {why}" for why, number in counts.left_out.items())
        raise DataError(
            f"no row is left to train on ({reasons or 'the files are empty'})",
            remedy="Raise sequence_length as far as the model's context goes, or give shorter rows.",
        )
    counts.documents, counts.tokens = len(documents), sum(len(document.ids) for document in documents)
    return build_store(documents, documents_per_unit=per_unit), counts


def _document(example: Example, domain: str, text_bytes: int = 0) -> TokenDocument:
    return TokenDocument(example.ids, example.trained, text_bytes, domain)


def _answer_bytes(messages: Iterable[Message]) -> int:
    """The size of what is trained of a conversation."""
    return sum(len(message["content"].encode()) for message in messages if message["role"] == "assistant")


def _rows(files: Sequence[Path], kinds: Sequence[Kind]) -> Iterator[tuple[dict[str, Any], str]]:
    """The fields of each row, and its domain."""
    for file in files:
        for row in read_rows(file, kinds=kinds):
            yield row.fields, str(row.fields.get("source") or file.name.split(".")[0])


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    """Rows by the thousand: tokenizers are much faster on many texts."""
    remaining = iter(rows)
    while some := list(islice(remaining, _ROWS_AT_ONCE)):
        yield some
