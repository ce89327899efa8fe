r"""Chat templates: how a conversation becomes text, and which part of it is trained on.

The `jinja` of a template goes into the tokenizer of a tuned model, so that every server renders the same
text. It cannot tell what to train on (SOLAR's gives an all-zero assistant mask in transformers), so the
segments are our own; their texts put together are what the jinja renders.

Sources: SOLAR, the chat template of upstage/SOLAR-10.7B-Instruct-v1.0; Alpaca, the instruction format of
Stanford Alpaca (Taori et al. 2023) with a line break before the answer; ChatML, OpenAI 2023, which Solar Pro
uses.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dusk.errors import DataError, SettingError

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


@dataclass(frozen=True)
class Segment:
    """A stretch of text; `trained` if it is the assistant's, to be followed by EOS."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Template:
    """A chat template.

    Attributes:
        name: as recipes and commands say it.
        jinja: the template as tokenizers hold it.
        user, system: what stands before and after the content of such a message.
        answer_head: what stands before an answer; a prompt ends with it.
        answer_end: what ends an answer and is trained on.
        after_answer: what follows an answer and is not trained on.
        preamble: what begins a conversation that has no system message.
        empty_system: whether an empty system message is rendered too.
        tokens: what must be a token of its own, so that no text can spell it and no reader sees it.
    """

    name: str
    jinja: str
    user: tuple[str, str]
    system: tuple[str, str]
    answer_head: str
    answer_end: str = ""
    after_answer: str = ""
    preamble: str = ""
    empty_system: bool = False
    tokens: tuple[str, ...] = ()

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """The conversation in order, untrained and trained stretches in turn.

        Raises:
            DataError: no message, or a role that is not system, user or assistant.
        """
        found: list[Segment] = []
        waiting = self._opening(messages)
        for message in messages:
            role, content = message["role"], message["content"]
            if role == "assistant":
                found.append(Segment(waiting + self.answer_head, False))
                found.append(Segment(content + self.answer_end, True))
                waiting = self.after_answer
            else:
                waiting += self._asked(role, content)
        return [*found, Segment(waiting, False)] if waiting else found

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text that an answer to `messages` is to follow.

        Raises:
            DataError: as `segments`.
        """
        return "".join(segment.text for segment in self.segments(messages)) + self.answer_head

    def _opening(self, messages: Sequence[Message]) -> str:
        if not messages:
            raise DataError("a conversation without a message")
        return "" if messages[0]["role"] == "system" else self.preamble

    def _asked(self, role: str, content: str) -> str:
        if role == "user":
            return self.user[0] + content + self.user[1]
        if role != "system":
            raise DataError(f"template {self.name}: it has no place for messages of the role {role!r}")
        return self.system[0] + content + self.system[1] if content or self.empty_system else ""


SOLAR = Template(
    name="solar",
    jinja=(
        "{% for message in messages %}{% if message['role'] == 'system' %}{% if message['content']%}"
        "{{'### System:\\n' + message['content']+'\\n\\n'}}{% endif %}{% elif message['role'] == 'user' %}"
        "{{'### User:\\n' + message['content']+'\\n\\n'}}{% elif message['role'] == 'assistant' %}"
        "{{'### Assistant:\\n'  + message['content']}}{% endif %}{% if loop.last and add_generation_prompt %}"
        "{{ '### Assistant:\\n' }}{% endif %}{% endfor %}"
    ),
    user=("### User:\n", "\n\n"),
    system=("### System:\n", "\n\n"),
    answer_head="### Assistant:\n",
)

_ALPACA_PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)

ALPACA = Template(
    name="alpaca",
    jinja=(
        "{% if messages[0]['role'] != 'system' %}{{ '"
        + _ALPACA_PREAMBLE.replace("\n", "\\n")
        + "' }}{% endif %}{% for message in messages %}{% if message['role'] == 'system' %}"
        "{% if message['content'] %}{{ message['content'] + '\\n\\n' }}{% endif %}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] + '\\n\\n' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    user=("### Instruction:\n", "\n\n"),
    system=("", "\n\n"),
    answer_head="### Response:\n",
    after_answer="\n\n",
    preamble=_ALPACA_PREAMBLE,
)

CHATML = Template(
    name="chatml",
    jinja=(
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
        "+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    answer_head="<|im_start|>assistant\n",
    answer_end="<|im_end|>",
    after_answer="\n",
    empty_system=True,
    tokens=("<|im_start|>", "<|im_end|>"),
)

TEMPLATES: dict[str, Template] = {template.name: template for template in (SOLAR, ALPACA, CHATML)}


def template(name: str) -> Template:
    """The template of that name.

    Raises:
        SettingError: there is none.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    near = difflib.get_close_matches(name.lower(), TEMPLATES, 1)
    raise SettingError(
        f"there is no chat template {name!r}",
        remedy=f"{f'Did you mean {near[0]}? ' if near else ''}There are {', '.join(TEMPLATES)} and tokenizer.",
    )
