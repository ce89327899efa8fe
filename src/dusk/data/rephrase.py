"""Mathematics for tuning and alignment, from questions and answers that are put in other words.

SOLAR (section 4.1) rephrases the questions and answers of a seed set as MetaMath does (Yu et al. 2023): the
rephrased pairs are tuned on (Math-Instruct), and in alignment the rephrased answer to the rephrased question
is preferred to the original answer (Math-Alignment). The paper rephrases with a language model; the rules
here need none, and a server can take their place behind `Rephraser`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Row = Mapping[str, Any]
"""{"question", "answer"}, perhaps with "level"; the answer may end in `#### N`."""


class Rephraser(Protocol):
    """Puts a question and its worked answer into other words."""

    def rephrase(self, question: str, answer: str) -> tuple[str, str]:
        """The same question and the same answer, in other words."""
        ...


def math_instruct(
    rows: Iterable[Row], rephraser: Rephraser, rejected: Counter[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows {"prompt", "completion"}: rephrased questions and answers; what is rejected is counted."""
    for row, question, answer in _rephrased(rows, rephraser, rejected):
        yield {"prompt": question, "completion": answer, **_level(row)}


def math_alignment(
    rows: Iterable[Row], rephraser: Rephraser, rejected: Counter[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows {"prompt", "chosen", "rejected"}: rephrased question, rephrased answer, original answer."""
    for row, question, answer in _rephrased(rows, rephraser, rejected):
        yield {"prompt": question, "chosen": answer, "rejected": row["answer"], **_level(row)}


def final_number(answer: str) -> str | None:
    r"""What is in the last `\boxed{}` (MATH), or the number after `####` (GSM8K), or else the text's last number.

    Numbers come without thousands separators, what is boxed without white space.
    """
    boxed = _boxed(answer)
    if boxed is not None:
        return boxed
    marked = _MARKED.search(answer)
    numbers = [marked[1]] if marked else _NUMBER.findall(answer)
    return numbers[-1].replace(",", "").removesuffix(".0").removesuffix(".00") if numbers else None


def _boxed(answer: str) -> str | None:
    """The content of the last box whose braces close."""
    _, found, rest = answer.rpartition(_BOX)
    depth = 1
    for place, character in enumerate(rest if found else ""):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return "".join(rest[:place].split())
    return None


def _rephrased(
    rows: Iterable[Row], rephraser: Rephraser, rejected: Counter[str] | None
) -> Iterator[tuple[Row, str, str]]:
    for row in rows:
        question, answer = rephraser.rephrase(row["question"], row["answer"])
        reason = changed(row["question"], row["answer"], question, answer)
        if reason is None:
            yield row, question, answer
        elif rejected is not None:
            rejected[reason] += 1


def changed(asked: str, answered: str, question: str, answer: str) -> str | None:
    """Why a rephrased question and answer cannot be used for the original ones; None if they can."""
    if not question.strip() or not answer.strip():
        return "nothing was written"
    if final_number(answer) is None or final_number(answer) != final_number(answered):
        return "the final number changed"
    if _numbers(question) != _numbers(asked):
        return "the numbers of the question changed"
    if _words(question) == _words(asked):
        return "the question is a copy"
    return "the answer is a copy" if _words(answer) == _words(answered) else None


def _level(row: Row) -> dict[str, Any]:
    return {"level": row["level"]} if "level" in row else {}


_BOX = r"\boxed{"
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_MARKED = re.compile(r"####\s*\$?(-?\d[\d,]*(?:\.\d+)?)")


def _numbers(text: str) -> Counter[str]:
    return Counter(_NUMBER.findall(text))


def _words(text: str) -> list[str]:
    return text.lower().split()


@dataclass(frozen=True)
class RuleRephraser:
    """Rephrases by rule, the same way for the same seed and question.

    Questions: other verbs, the question turned, the question put before the story. Answers: each step is
    announced, worked out on its own and then told, and the result is said once more.
    """

    seed: int = 0

    def rephrase(self, question: str, answer: str) -> tuple[str, str]:
        """See `Rephraser`."""
        choice = hashlib.blake2b(f"{self.seed}:{question}".encode(), digest_size=1).digest()[0]
        return rephrased_question(question, choice), rephrased_answer(answer)


_VERBS = {
    "bought": "got",
    "buys": "gets",
    "finds": "picks up",
    "found": "picked up",
    "gave": "handed",
    "gives": "hands",
    "holds": "contains",
    "lost": "misplaced",
    "loses": "misplaces",
    "put": "placed",
    "puts": "places",
}
_VERB = re.compile(rf"\b({'|'.join(_VERBS)})(?= \d)")  # before a number it is a verb, and of things
_HAS = re.compile(r"(?:^|(?<=[.!?] ))(?!It|This|That|There|Each|Every|One)([A-Z][a-z]+) has(?= \d)")

_TURNS = (
    (re.compile(r"How many (\w+) does (\w+) have now\?$"), r"What is the number of \1 that \2 has now?"),
    (re.compile(r"How many (\w+) does (\w+) have left\?$"), r"What is the number of \1 that \2 still has?"),
    (re.compile(r"How many (\w+) does (\w+) have\?$"), r"What is the number of \1 that \2 has?"),
    (
        re.compile(r"How many (\w+) do (\w+) and (\w+) have together\?$"),
        r"What is the total number of \1 that \2 and \3 have?",
    ),
    (re.compile(r"How many (\w+) are there in all\?$"), r"What is the total number of \1?"),
    (
        re.compile(r"How many more (\w+) does (\w+) have than (\w+)\?$"),
        r"By how many \1 does \2 have more than \3?",
    ),
    (
        re.compile(r"How many (\w+) does (\w+) (buy|find|pay|sell|make|need|eat|read)\?$"),
        r"What is the number of \1 that \2 \3s?",
    ),
)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")


def rephrased_question(question: str, choice: int) -> str:
    """A question in other words; `choice` selects among the ways there are."""
    *told, asked = _SENTENCE_END.split(question.strip())
    turned = _turned(asked)
    front = bool(told) and asked.endswith("?") and (choice % 3 > 0 or turned == asked)
    story = " ".join(told) if choice % 3 == 1 and turned != asked else _with_other_verbs(" ".join(told))
    if front:
        return f"{turned if choice % 2 else asked} Here is what we know: {story}"
    return f"{story} {turned}".strip()


def _with_other_verbs(story: str) -> str:
    return _HAS.sub(r"\1 owns", _VERB.sub(lambda found: _VERBS[found[1]], story))


def _turned(asked: str) -> str:
    for pattern, turn in _TURNS:
        if pattern.search(asked):
            return pattern.sub(turn, asked)
    return asked


_CALCULATOR = re.compile(r"<<[^>]*>>")  # GSM8K's annotations
_AMOUNT = r"\$?\d[\d,]*(?:\.\d+)?"
_EQUATION = re.compile(rf"(?<![\d.$])({_AMOUNT}) ?([-+*/x×]) ?({_AMOUNT}) ?= ?({_AMOUNT})(?! ?[-+*/=×%\d])")
_SIGNS = {"x": "*", "×": "*"}
_ANNOUNCED = {
    "+": "Add {0} and {1}",
    "-": "Take {1} from {0}",
    "*": "Multiply {0} by {1}",
    "/": "Divide {0} by {1}",
}


def rephrased_answer(answer: str) -> str:
    """An answer worded more fully: each step announced, the result said once more before `#### N`."""
    worked, mark, _ = answer.partition("####")
    lines = _CALCULATOR.sub("", worked).strip()
    steps = [_explicit(_closed(step)) for step in _SENTENCE_END.split(lines) if step]
    result = final_number(answer)
    closing = [] if result is None or "the answer is" in lines.lower() else [f"The answer is {result}."]
    return " ".join([*steps, *closing]) + (f"\n#### {result}" if mark else "")


def _closed(step: str) -> str:
    return step if step.endswith((".", "!", "?", ":")) else f"{step}."


def _explicit(step: str) -> str:
    """A sentence that holds one equation as two: the equation on its own, and what it tells."""
    found = [equation for equation in _EQUATION.finditer(step) if _holds(*equation.groups())]
    if len(found) != 1:
        return step
    left, sign, right, result = found[0].groups()
    sign = _SIGNS.get(sign, sign)
    before, after = step[: found[0].start()], step[found[0].end() :]
    if before.endswith("because "):
        return step
    sentence = f"{before}{result}{after}" if re.search(r"[a-zA-Z]{2}", before + after) else ""
    announced = _ANNOUNCED[sign].format(left, right)
    return f"{announced}: {left} {sign} {right} = {result}. {sentence}".strip()


def _holds(left: str, sign: str, right: str, result: str) -> bool:
    """Whether an equation is true, to its last digit; one that is not may be the end of a longer one."""
    a, b, c = (float(amount.lstrip("$").replace(",", "")) for amount in (left, right, result))
    if sign == "/":
        return b != 0 and abs(a / b - c) < 0.01
    return abs({"+": a + b, "-": a - b}.get(sign, a * b) - c) < 0.01
