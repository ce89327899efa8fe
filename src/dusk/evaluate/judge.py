"""A judge: a model behind an OpenAI-compatible server that grades answers from 1 to 10.

What it is asked and how its grade is read are here; a grade off the scale is asked for again, and left out if it
stays off it. A server that stalls is asked again too, and after that the work stops with what it has.
"""

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dusk.errors import SettingError, WorkError

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


@dataclass(frozen=True)
class Judge:
    """A model on a server: `url` ends in /v1 as a rule; the key is taken from OPENAI_API_KEY."""

    url: str
    model: str
    timeout_seconds: float = 120.0
    attempts: int = 3
    pause_seconds: float = 2.0
    key: str = field(default_factory=lambda: os.environ.get("OPENAI_API_KEY", ""), repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise SettingError(
                f"judge {self.url}: no address of a server", remedy="It begins with http:// or https://."
            )

    def grade(self, conversation: Sequence[Message], reference: str | None) -> Verdict:
        """The verdict on the conversation's last answer.

        Raises:
            WorkError: the server does not answer, or not in the form of its interface.
        """
        asked: list[Message] = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _shown(conversation, reference)},
        ]
        text = ""
        for _ in range(self.attempts):
            text = self.complete(asked)
            grade = read_grade(text)
            if grade is not None:
                return Verdict(grade, text)
            asked = [*asked[:2], {"role": "assistant", "content": text}, {"role": "user", "content": _AGAIN}]
        return Verdict(None, text)

    def complete(self, messages: Sequence[Message]) -> str:
        """The server's answer, greedy; a server that is busy or stalls is asked again."""
        problem = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause_seconds * 2 ** (attempt - 1))
            try:
                return self._asked({"model": self.model, "messages": list(messages), "temperature": 0.0})
            except urllib.error.HTTPError as error:
                problem = f"it says {error.code}: {error.read(300).decode(errors='replace').strip()}"
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    break
            except TimeoutError:
                problem = f"no answer in {self.timeout_seconds:g} s"
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
        raise WorkError(
            f"judge {self.model} at {self.url} does not answer: {problem}",
            remedy="What was graded is kept; the same command continues.",
        )

    def _asked(self, body: dict[str, Any]) -> str:
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.key or 'none'}"},
        )
        with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
            content = response.read()
        try:
            return str(json.loads(content)["choices"][0]["message"]["content"] or "")
        except (ValueError, LookupError, TypeError) as error:
            told = content[:200].decode(errors="replace")
            raise WorkError(
                f"judge {self.model} at {self.url}: its answer is not that of a chat server: {told}"
            ) from error


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
