"""The items of benchmarks, as the texts that training data are searched for.

The forms of the six H6 sets and of rows of training are known by their fields. What a model is asked is the
item's prompt; the right answer follows it where a whole item is compared. Wrong choices are no part of an item:
they stand in many texts that have nothing to do with the benchmark.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk.data.fields import RowError, UnwantedError
from dusk.data.kinds import KINDS, Kind, answer, fault
from dusk.data.readers import read_rows
from dusk.data.sources import source_of
from dusk.errors import DataError

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One item of a benchmark: the set it belongs to, its row there from 1, what is asked, the right answer."""

    set: str
    row: int
    prompt: str
    answer: str = ""

    @property
    def text(self) -> str:
        """The prompt with the answer."""
        return f"{self.prompt} {self.answer}".rstrip()


def read_benchmark(file: Path) -> Iterator[Item]:
    """The items of a file. Its set is called by folder and file, such as `gsm8k/test`.

    Raises:
        DataError: a file that cannot be read, or a row of no form that is known.
    """
    name = set_name(file)
    for row in read_rows(file):
        try:
            prompt, right = item_texts(row.fields)
        except (KeyError, TypeError, ValueError, IndexError, RowError, UnwantedError) as error:
            raise DataError(
                f"{file}:{row.line}: no form of a benchmark that is known (it has {', '.join(row.fields)})",
                remedy="Give rows with a question and an answer, or with a text.",
            ) from error
        yield Item(name, row.line, prompt, right)


def set_name(file: Path) -> str:
    """What a benchmark's file is called: its folder and its name."""
    stem = file.name.split(".")[0]
    return f"{file.absolute().parent.name}/{stem}"


def item_texts(fields: Fields) -> tuple[str, str]:
    """What a row asks and its right answer; raises KeyError, TypeError, ValueError or IndexError."""
    for names, texts in _FORMS:
        if all(name in fields for name in names):
            return texts(fields)
    if fault(fields, KINDS) is None:
        return row_texts(fields)
    source = source_of(fields)
    if source.fields:
        return row_texts(source.convert(fields, 0))
    raise KeyError("form")


def row_texts(fields: Fields) -> tuple[str, str]:
    """Of a row of training what is asked (all that is not the assistant's) and what is answered."""
    kind = Kind.of(fields)
    if kind is Kind.TEXT:
        return fields["text"], ""
    if kind is Kind.CHAT:
        return _parted(fields["messages"])
    asked, given = fields["prompt"], ""
    if not isinstance(asked, str):
        asked, given = _parted(asked)
    names = ("completion",) if kind is Kind.COMPLETION else ("chosen", "rejected")
    return asked, "\n".join([given, *(answer(fields[name]) for name in names)]).strip()


def _parted(messages: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    asked = (m["content"] for m in messages if m["role"] != "assistant")
    return "\n".join(asked), "\n".join(m["content"] for m in messages if m["role"] == "assistant")


def _multiple_choice(fields: Fields) -> tuple[str, str]:
    """ARC ({"text", "label"} and a key) and MMLU (a list and a number)."""
    choices = fields["choices"]
    if isinstance(choices, Mapping):
        return fields["question"], choices["text"][list(choices["label"]).index(fields["answerKey"])]
    return fields["question"], choices[int(fields["answer"])]


def _winogrande(fields: Fields) -> tuple[str, str]:
    """The sentence with the right option in its place."""
    return fields["sentence"].replace("_", fields[f"option{fields['answer']}"]), ""


_FORMS: tuple[tuple[tuple[str, ...], Callable[[Fields], tuple[str, str]]], ...] = (
    (("question", "choices"), _multiple_choice),
    (("sentence", "option1", "option2", "answer"), _winogrande),
    (("query", "choices", "gold"), lambda fields: (fields["query"], fields["choices"][fields["gold"]])),
    (("question", "best_answer"), lambda fields: (fields["question"], fields["best_answer"])),
    (
        ("question", "mc1_targets"),
        lambda f: (f["question"], f["mc1_targets"]["choices"][list(f["mc1_targets"]["labels"]).index(1)]),
    ),
    (("question", "answer"), lambda fields: (fields["question"], str(fields["answer"]))),
    (("problem", "solution"), lambda fields: (fields["problem"], fields["solution"])),
)
