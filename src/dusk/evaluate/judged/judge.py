"""A judge: a model behind an OpenAI-compatible server that grades answers from 1 to 10.

What it is asked and how its grade is read are here; a grade off the scale is asked for again, and left out if it
stays off it. Requests, and what is done when they fail, are `dusk.data.server`'s.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dusk.data.server import Client, RequestError, Server
from dusk.errors import WorkError

LOWEST, HIGHEST = 1, 10

_GRADE = re.compile(r"(?:score|grade|점수)\W{0,6}?(-?\d+(?:\.\d+)?)(?:\s*/\s*10)?", re.IGNORECASE)

_SYSTEM = f"""\
You grade the answer of an assistant to the last request of a conversation. Judge whether it is right, does what \
was asked, is clear, and is written well in the language of the request. A reference answer, where there is one, \
is right. Say in a sentence or two what is good and what is wrong. Then end with one line:
Score: N
where N is a whole number from {LOWEST} (useless) to {HIGHEST} (nothing to improve)."""

_AGAIN = f"Your answer has no line `Score: N` with N from {LOWEST} to {HIGHEST}. Write that line now."

Message = dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """A grade, or None where the judge gave none on the scale; and what it wrote."""

    grade: float | None
    text: str


class Judge:
    """A model on a server: `url` ends in /v1 as a rule; the key is taken from OPENAI_API_KEY.

    Raises:
        SettingError: a URL that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout_seconds: float = 120.0,
        concurrency: int = 8,
        asked_most: int = 3,
    ) -> None:
        self.model, self.asked_most = model, asked_most
        self.server = Server(
            url,
            model,
            concurrency=concurrency,
            timeout_seconds=timeout_seconds,
            temperature=0.0,
            max_tokens=None,
        )

    def grade(
        self,
        asked: Sequence[tuple[Sequence[Message], str | None]],
        keep: Callable[[int, Verdict], None],
    ) -> None:
        """Grade the last answer of each conversation, several at a time.

        Args:
            asked: conversations, each with a reference answer or None.
            keep: called with the place in `asked` and the verdict when it is given.

        Raises:
            WorkError: the server does not answer, or not in the form of its interface.
        """
        asyncio.run(self._grade(asked, keep))

    async def _grade(
        self,
        asked: Sequence[tuple[Sequence[Message], str | None]],
        keep: Callable[[int, Verdict], None],
    ) -> None:
        async def one(place: int) -> None:
            keep(place, await self._verdict(client, *asked[place]))

        async with Client(self.server).connected() as client:
            tasks = [asyncio.create_task(one(place)) for place in range(len(asked))]
            try:
                await asyncio.gather(*tasks)
            except RequestError as error:
                client.require_up()
                raise WorkError(
                    f"judge {self.model} at {self.server.url} does not answer: {error.reason}",
                    remedy="What was graded is kept; the same command continues.",
                ) from error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _verdict(
        self, client: Client, conversation: Sequence[Message], reference: str | None
    ) -> Verdict:
        asked: list[Message] = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _shown(conversation, reference)},
        ]
        text = ""
        for _ in range(self.asked_most):
            try:
                text = await client.answer(asked, 0)
            except RequestError as error:
                if not error.unusable:
                    raise
                return Verdict(None, error.reason)
            grade = read_grade(text)
            if grade is not None:
                return Verdict(grade, text)
            asked = [*asked[:2], {"role": "assistant", "content": text}, {"role": "user", "content": _AGAIN}]
        return Verdict(None, text)


def read_grade(text: str) -> float | None:
    """The last grade that a text gives, if it is on the scale; with a fraction where the judge gives one."""
    found = _GRADE.findall(text)
    if not found:
        return None
    grade = float(found[-1])
    return grade if LOWEST <= grade <= HIGHEST else None


def _shown(conversation: Sequence[Message], reference: str | None) -> str:
    """The conversation as the judge sees it, its last answer apart."""
    *before, last = conversation
    parts = [f"[{message['role']}]\n{message['content']}" for message in before]
    parts += [f"[reference answer]\n{reference}"] if reference else []
    return "\n\n".join([*parts, f"[answer to grade]\n{last['content']}"])
