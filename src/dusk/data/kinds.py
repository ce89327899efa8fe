"""The kinds of rows that training takes, as in TRL, and what can be wrong with a row.

    {"text"}                            plain text: pretraining
    {"messages"}                        a conversation: tuning
    {"prompt", "completion"}            a question and its answer: tuning
    {"prompt", "chosen", "rejected"}    a question and two answers: alignment

A prompt is a string (one message of the user) or a list of messages; an answer is a string, or a list of
messages of which the last is the answer. Other fields are let be.
"""

from collections.abc import Collection, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any

from dusk.data.templates import Message

_ROLES = ("system", "user", "assistant")


class Kind(Enum):
    """What a row is for; the value names the fields it needs."""

    TEXT = ("text",)
    CHAT = ("messages",)
    COMPLETION = ("prompt", "completion")
    PREFERENCE = ("prompt", "chosen", "rejected")

    @property
    def shape(self) -> str:
        """The fields as people read them."""
        return "{" + ", ".join(f'"{name}"' for name in self.value) + "}"

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Kind | None":
        """The kind whose fields a row has: the one of most fields, None without any."""
        return _kind_of(tuple(fields))


KINDS = tuple(Kind)


def fault(fields: Mapping[str, Any], kinds: Collection[Kind]) -> str | None:
    """What keeps a row from being one of `kinds`; None if nothing does."""
    kind = Kind.of(fields)
    if kind is not None and kind not in kinds:
        kind = next((k for k in reversed(Kind) if k in kinds and set(k.value) <= set(fields)), None)
    if kind is None:
        wanted = " or ".join(k.shape for k in Kind if k in kinds)
        return f"needs {wanted}, has {', '.join(fields) or 'nothing'}"
    for name in kind.value:
        found = _field_fault(name, fields[name])
        if found is not None:
            return found
    if kind is Kind.PREFERENCE and answer(fields["chosen"]) == answer(fields["rejected"]):
        return "chosen and rejected are the same"
    return None


@lru_cache(maxsize=1000)  # rows of a set have the same fields
def _kind_of(names: tuple[str, ...]) -> Kind | None:
    return next((kind for kind in reversed(Kind) if set(kind.value) <= set(names)), None)


def conversation(fields: Mapping[str, Any]) -> list[Message]:
    """The messages of a row of the kinds CHAT and COMPLETION, the answer last."""
    if "messages" in fields:
        return list(fields["messages"])
    return [*prompt(fields["prompt"]), {"role": "assistant", "content": answer(fields["completion"])}]


def pair(fields: Mapping[str, Any]) -> tuple[list[Message], str, str]:
    """The prompt's messages, the chosen and the rejected answer of a row of the kind PREFERENCE."""
    return prompt(fields["prompt"]), answer(fields["chosen"]), answer(fields["rejected"])


def prompt(value: str | list[Message]) -> list[Message]:
    """A prompt as messages."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)


def answer(value: str | list[Message]) -> str:
    """An answer as text; of a list of messages, the last one's."""
    return value if isinstance(value, str) else value[-1]["content"]


def _field_fault(name: str, value: Any) -> str | None:
    if name == "text" or (isinstance(value, str) and name != "messages"):
        return _text_fault(name, value)
    if not isinstance(value, list):
        return f"{name} is neither text nor messages" if name != "messages" else "messages are no list"
    if not value:
        return f"{name} is empty"
    return next((f for f in (_message_fault(name, m) for m in value) if f), None) or _order_fault(name, value)


def _text_fault(name: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{name} is no text"
    return None if value.strip() else f"{name} is empty"


def _message_fault(name: str, message: Any) -> str | None:
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
        return f"{name} has a message without a content of text"
    role = message.get("role")
    if role not in _ROLES:
        return f"{name} has a message of the role {role!r}"
    return f"{name} has an empty message" if role != "system" and not message["content"].strip() else None


def _order_fault(name: str, messages: list[Message]) -> str | None:
    last = messages[-1]["role"]
    if name == "prompt":
        return "prompt ends with an answer" if last == "assistant" else None
    if name == "messages":
        answered = any(message["role"] == "assistant" for message in messages)
        return None if answered else "messages hold no answer of the assistant"
    return None if last == "assistant" else f"{name} does not end with an answer"
