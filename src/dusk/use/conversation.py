"""What has been said, and what of it fits."""

from collections.abc import Callable, Mapping, Sequence

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""


class Conversation:
    """A history of messages, with a system message in front if there is one."""

    def __init__(self, system: str | None = None) -> None:
        self._head: list[Message] = [{"role": "system", "content": system}] if system else []
        self._said: list[Message] = []

    def asked(self, text: str) -> list[Message]:
        """The messages with one of the user's behind; nothing is kept yet."""
        return [*self._head, *self._said, {"role": "user", "content": text}]

    def keep(self, question: str, answer: str) -> None:
        """Remember a turn."""
        self._said += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def forget(self) -> None:
        """Begin again, under the same system message."""
        self._said.clear()


def fitting(
    messages: Sequence[Message], length: Callable[[Sequence[Message]], int], limit_tokens: int
) -> list[Message]:
    """The messages without as many of the oldest turns as it takes to fit; the last and the system's stay.

    `length` tells how many tokens the prompt of messages has.
    """
    head = [message for message in messages[:1] if message["role"] == "system"]
    rest = list(messages[len(head) :])
    while len(rest) > 2 and length([*head, *rest]) > limit_tokens:
        del rest[:2]
    return [*head, *rest]
