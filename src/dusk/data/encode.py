"""From text and conversations to token ids, and which of them are trained on.

Documents are BOS, text, EOS. Conversations are encoded segment by segment, so that the boundary between
prompt and answer is exact: the prompt's ids are those that a server gets when it tokenises the prompt alone.
EOS follows each answer, because templates such as SOLAR's emit none and a model that never sees it does not
learn to stop.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from dusk.data.jinja_template import ChatTemplate
from dusk.data.templates import Message, Segment
from dusk.errors import DataError

Conversation = Sequence[Message]


@dataclass(frozen=True)
class Example:
    """One document: its token ids, and which of them are trained on (predicted), of equal length."""

    ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class PairExample:
    """A prompt's ids (BOS in front), and those of two answers to it (EOS behind)."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def branches(pair: PairExample) -> tuple[Example, Example, Example]:
    """The prompt without its last token, and both answers behind that token, which alone are trained on.

    The prompt's last token predicts the first of either answer, so each branch has it for itself; what is before
    it is the same for both, and is computed once (arXiv 2410.20305).
    """
    shared, last = pair.prompt_ids[:-1], pair.prompt_ids[-1:]
    answers = (
        Example([*last, *ids], [False] * len(last) + [True] * len(ids))
        for ids in (pair.chosen_ids, pair.rejected_ids)
    )
    return (Example(shared, [False] * len(shared)), *answers)  # type: ignore[return-value]


class TextTokenizer:
    """A tokenizer as this package uses it: batches of texts to ids, BOS and EOS apart.

    Takes a `tokenizers.Tokenizer` or a fast tokenizer of transformers. `bos` is what the tokenizer itself
    puts in front of a text, if anything; `eos` is the one given, or the one that a tokenizer of transformers
    names.

    Raises:
        DataError: no EOS is known, or the tokenizer is none of these.
    """

    def __init__(self, tokenizer: Any, *, eos: int | None = None) -> None:
        inner = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(inner, "encode_batch_fast"):
            raise DataError(
                f"{type(tokenizer).__name__} is no fast tokenizer",
                remedy="Convert it to a tokenizer.json (tokenizers), or load it with use_fast=True.",
            )
        self._tokenizer = _neither_cutting_nor_padding(inner)
        found = eos if eos is not None else getattr(tokenizer, "eos_token_id", None)
        if found is None:
            raise DataError(
                "the tokenizer names no end-of-text token (EOS), so a model could not learn to stop",
                remedy="Set eos_token in tokenizer_config.json.",
            )
        self.eos = int(found)
        self.added: tuple[str, ...] = ()
        self.bos = self._added_in_front()
        self._changes_beginnings = self._ids("\na")[len(self._ids("\n")) :] != self._ids("a")

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text, None where there is no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    @property
    def size(self) -> int:
        """How many ids there are: the highest, and one."""
        return max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def add_special(self, tokens: Sequence[str]) -> None:
        """Make these texts tokens of their own, with the next ids, that decoding can leave out."""
        self._tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens])
        self.added += tuple(tokens)

    def save(self, file: Path) -> None:
        """Write it as a tokenizer.json."""
        self._tokenizer.save(str(file))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that each begin a document, without special tokens around them."""
        return [found.ids for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_following(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts that each follow other text.

        Sentencepiece tokenizers put a blank before the first word of a text: such texts are encoded behind a
        line break, whose ids are taken away, unless the text joins with the line break.
        """
        if not self._changes_beginnings:
            return self.encode(texts)
        head = self._ids("\n")
        behind = self.encode([f"\n{text}" for text in texts])
        alone = self.encode(texts)
        return [
            ids[len(head) :] if ids[: len(head)] == head else own
            for ids, own in zip(behind, alone, strict=True)
        ]

    def digest(self) -> str:
        """SHA-256 of all that ids depend on: the tokenizer, what stands around texts, the library's version."""
        parts = [self._tokenizer.to_str(), self.bos, self.eos, version("tokenizers")]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _added_in_front(self) -> int | None:
        bare, full = self._ids("a"), list(self._tokenizer.encode("a").ids)
        at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return full[at - 1] if at else None


def encode_text(text: str, tokenizer: TextTokenizer) -> Example:
    """A document of plain text: all of it trained on but the BOS."""
    return encode_texts([text], tokenizer)[0]


def encode_texts(texts: Sequence[str], tokenizer: TextTokenizer) -> list[Example]:
    """As `encode_text`, many at once, which is much faster."""
    front = [] if tokenizer.bos is None else [tokenizer.bos]
    return [
        Example([*front, *ids, tokenizer.eos], [False] * len(front) + [True] * (len(ids) + 1))
        for ids in tokenizer.encode(texts)
    ]


def encode_chat(messages: Conversation, tokenizer: TextTokenizer, template: ChatTemplate) -> Example:
    """A conversation: the assistant's turns and the EOS behind each are trained on.

    What follows the last answer is left out.

    Raises:
        DataError: there is no answer, or a role that the template has no place for.
    """
    return encode_chats([messages], tokenizer, template)[0]


def encode_chats(
    conversations: Sequence[Conversation], tokenizer: TextTokenizer, template: ChatTemplate
) -> list[Example]:
    """As `encode_chat`, many at once, which is much faster."""
    rendered = [_to_last_answer(template.segments(messages)) for messages in conversations]
    first = iter(tokenizer.encode([segments[0].text for segments in rendered]))
    later = chain.from_iterable(segments[1:] for segments in rendered)
    rest = iter(tokenizer.encode_following([segment.text for segment in later]))
    examples = []
    for segments in rendered:
        pieces = [next(first), *(next(rest) for _ in segments[1:])]
        examples.append(_joined(segments, pieces, tokenizer))
    return examples


def encode_pair(
    prompt: Conversation, chosen: str, rejected: str, tokenizer: TextTokenizer, template: ChatTemplate
) -> PairExample:
    """A preference pair: the prompt as text before an answer, and both answers with EOS.

    Raises:
        DataError: a role that the template has no place for.
    """
    return encode_pairs([(prompt, chosen, rejected)], tokenizer, template)[0]


def encode_pairs(
    pairs: Sequence[tuple[Conversation, str, str]], tokenizer: TextTokenizer, template: ChatTemplate
) -> list[PairExample]:
    """As `encode_pair`, many (prompt, chosen, rejected) at once, which is much faster."""
    prompts = [[*prompt, _answer(chosen)] for prompt, chosen, _ in pairs]
    with_chosen = encode_chats(prompts, tokenizer, template)
    others = (template.segments([*prompt, _answer(rejected)]) for prompt, _, rejected in pairs)
    rejected = tokenizer.encode_following([_to_last_answer(segments)[-1].text for segments in others])
    examples = []
    for example, ids in zip(with_chosen, rejected, strict=True):
        begin = _last_answer_begin(example)
        examples.append(PairExample(example.ids[:begin], example.ids[begin:], _ended(ids, tokenizer.eos)))
    return examples


def too_long(example: Example | PairExample, longest: int) -> str | None:
    """Why an example does not fit `longest` tokens, None if it does.

    Nothing is cut: what does not fit is left out as a whole, and the reasons are for counting.
    """
    if isinstance(example, PairExample):
        prompt = len(example.prompt_ids)
        whole = prompt + max(len(example.chosen_ids), len(example.rejected_ids))
    else:
        prompt = example.trained.index(True) if True in example.trained else len(example.ids)
        whole = len(example.ids)
    if whole <= longest:
        return None
    return "prompt longer than the context" if prompt >= longest else "answer does not fit the context"


def _neither_cutting_nor_padding(tokenizer: Any) -> Any:
    """A tokenizer.json may ask for both; then a copy that does neither."""
    if tokenizer.truncation is None and tokenizer.padding is None:
        return tokenizer
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _to_last_answer(segments: list[Segment]) -> list[Segment]:
    while segments and not segments[-1].trained:
        segments = segments[:-1]
    if not segments:
        raise DataError("a conversation without an answer of the assistant")
    return segments


def _joined(segments: Iterable[Segment], pieces: Iterable[list[int]], tokenizer: TextTokenizer) -> Example:
    ids: list[int] = []
    trained: list[bool] = []
    for segment, piece in zip(segments, pieces, strict=True):
        if not ids and tokenizer.bos is not None and piece[:1] != [tokenizer.bos]:
            ids, trained = [tokenizer.bos], [False]  # unless the template writes it
        whole = _ended(piece, tokenizer.eos) if segment.trained else piece
        ids += whole
        trained += [segment.trained] * len(whole)
    return Example(ids, trained)


def _ended(ids: list[int], eos: int) -> list[int]:
    """With EOS behind, once: in ChatML the end of a turn may be the EOS itself."""
    return ids if ids and ids[-1] == eos else [*ids, eos]


def _last_answer_begin(example: Example) -> int:
    """Where the run of trained tokens at the end begins."""
    begin = len(example.trained)
    while begin and example.trained[begin - 1]:
        begin -= 1
    return begin
