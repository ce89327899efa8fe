"""A tokenizer's own chat template: any jinja, rendered as servers render it.

What is trained on is told by rendering a conversation twice: up to an answer, as a server is asked for it, and
with the answer. That holds where each rendering begins with the one before; a template that writes an earlier
turn in another way once more turns follow is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from dusk.data.templates import TEMPLATES, Message, Segment, Template
from dusk.errors import DataError

OWN = "tokenizer"
_REMEDY = f"Name a template that is written down here with --template: {', '.join(TEMPLATES)}."


@dataclass(frozen=True)
class JinjaTemplate:
    """A chat template in jinja; `named` are the special tokens that it may use, such as `eos_token`."""

    jinja: str
    named: Mapping[str, str] = field(default_factory=dict)
    name: str = OWN
    tokens: ClassVar[tuple[str, ...]] = ()  # the tokenizer has those of its own template

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """The conversation in order, untrained and trained stretches in turn.

        An answer ends behind the end-of-text token that the template writes, or else before the white space
        that the template puts behind it.

        Raises:
            DataError: no message, or the template refuses the conversation or writes it in several ways.
        """
        if not messages:
            raise DataError("a conversation without a message")
        whole = self._rendered(messages)
        found: list[Segment] = []
        at = 0
        for place in (n for n, message in enumerate(messages) if message["role"] == "assistant"):
            head = self._rendered(messages[:place], asked=True)
            told = whole if place == len(messages) - 1 else self._rendered(messages[: place + 1])
            if not (whole.startswith(told) and told.startswith(head) and at <= len(head) < len(told)):
                raise DataError(
                    "the tokenizer's chat template writes the beginning of a conversation in another way once "
                    "the answer or further turns follow, so what a model is asked is not what it is trained on",
                    remedy=_REMEDY,
                )
            end = len(head) + self._answer_size(told[len(head) :], messages[place]["content"])
            found += [Segment(whole[at : len(head)], False), Segment(whole[len(head) : end], True)]
            at = end
        return [*found, Segment(whole[at:], False)] if whole[at:] else found

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that an answer to `messages` is to follow.

        Raises:
            DataError: the template refuses the conversation.
        """
        return self._rendered(messages, asked=True)

    def _answer_size(self, answer: str, content: str) -> int:
        eos = self.named.get("eos_token")
        if eos and eos in answer:
            return answer.rindex(eos) + len(eos)
        return len(answer) if answer.endswith(content) else len(answer.rstrip())

    def _rendered(self, messages: Sequence[Message], *, asked: bool = False) -> str:
        from jinja2 import TemplateError  # lazy: only these templates need it and transformers
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            (text,), _ = render_jinja_template(
                [[dict(message) for message in messages]],
                chat_template=self.jinja,
                add_generation_prompt=asked,
                **self.named,
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise DataError(
                f"the tokenizer's chat template refuses a conversation: {error}", remedy=_REMEDY
            ) from error
        return str(text)


ChatTemplate = Template | JinjaTemplate
