"""Generated arithmetic word problems with worked answers, in levels of difficulty.

An answer is one line of reasoning and then `#### N`, as in GSM8K (Cobbe et al. 2021). There is no end to the
problems: a seed gives the same ones everywhere. The story and its numbers decide whether a problem is for
training or for evaluation, so no evaluation problem is a training problem with another name in it.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from dusk.data.readers import write_rows
from dusk.data.stories import LEVELS, NAMES, STORIES, THINGS, Story
from dusk.errors import SettingError

Part = Literal["train", "evaluation"]

_EVALUATION_SHARE = 5  # one problem in so many
_DRAWN_AT_ONCE = 1000
_LEAST_RESULT = 2  # so that everything can stand in the plural
_OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


@dataclass(frozen=True)
class Problem:
    """A question, its worked answer that ends in `#### N`, and its level (1 to 5)."""

    question: str
    answer: str
    level: int

    @property
    def text(self) -> str:
        """The problem as a document, in the words that evaluation asks in."""
        return f"Question: {self.question}\nAnswer: {self.answer}"


def problems(level: int, *, part: Part, seed: int = 0) -> Iterator[Problem]:
    """Problems of a level without end; in a long run questions come back."""
    draw = random.Random(f"{seed}:{level}:{part}")
    stories = [story for story in STORIES if story.level == level]
    while True:
        story = draw.choice(stories)
        numbers = {name: draw.randint(*bounds) for name, bounds in _used(story)}
        worked = _worked(story, numbers)
        if worked is not None and part_of(story, numbers) == part:
            yield _told(story, numbers, worked, draw)


def distinct_problems(level: int, count: int, *, part: Part, seed: int = 0) -> list[Problem]:
    """The first `count` problems of a level whose questions differ.

    Raises:
        SettingError: the level has too few of them.
    """
    found: dict[str, Problem] = {}
    drawn = problems(level, part=part, seed=seed)
    while len(found) < count:
        before = len(found)
        for problem in islice(drawn, _DRAWN_AT_ONCE):
            found.setdefault(problem.question, problem)
        if len(found) - before < _DRAWN_AT_ONCE // 50:
            raise SettingError(f"level {level} has little more than {len(found)} problems, not {count}")
    return list(found.values())[:count]


def write_arithmetic(
    out: str | Path, *, seed: int = 0, problems: int = 10_000, evaluation_problems: int = 1_000
) -> dict[str, int]:
    """Write problems of all levels in equal shares, in mixed order, into the folder `out`.

    `train.jsonl` and `arithmetic.jsonl` (for evaluation) hold {"question", "answer", "level"}; `text.jsonl`
    holds the training problems as {"text", "source"}, for pretraining. Returns how many are in each.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    train = _mixed("train", problems, seed)
    evaluation = _mixed("evaluation", evaluation_problems, seed)
    return {
        "train": write_rows(folder / "train.jsonl", map(asdict, train)),
        "text": write_rows(folder / "text.jsonl", ({"text": p.text, "source": "arithmetic"} for p in train)),
        "arithmetic": write_rows(folder / "arithmetic.jsonl", map(asdict, evaluation)),
    }


def part_of(story: Story, numbers: dict[str, int]) -> Part:
    """The part that a story with these numbers belongs to, whatever the names and things in it."""
    key = f"{story.told}|{story.asked}|{sorted(numbers.items())}"
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "train" if int.from_bytes(digest, "big") % _EVALUATION_SHARE else "evaluation"


def _mixed(part: Part, count: int, seed: int) -> list[Problem]:
    share = -(-count // len(LEVELS))
    by_level = [distinct_problems(level, share, part=part, seed=seed) for level in LEVELS]
    rows = [problem for of_all_levels in zip(*by_level, strict=True) for problem in of_all_levels][:count]
    random.Random(f"{seed}:{part}:order").shuffle(rows)
    return rows


def _used(story: Story) -> list[tuple[str, tuple[int, int]]]:
    """The numbers that a story tells, with their ranges."""
    return [(name, bounds) for name, bounds in story.ranges.items() if f"{{{name}}}" in story.told]


def _worked(story: Story, numbers: dict[str, int]) -> list[tuple[str, int]] | None:
    """Equation and result of each step; None if a result is too small to be told."""
    known = dict(numbers)
    steps = []
    for formula, _ in story.steps:
        left, operator, right = formula.split()
        result = _OPERATORS[operator](known[left], known[right])
        if result < _LEAST_RESULT:
            return None
        steps.append((f"{known[left]} {operator} {known[right]} = {result}", result))
        known["y"], known["x"] = known.get("x", result), result
    return steps


def _told(
    story: Story, numbers: dict[str, int], worked: Sequence[tuple[str, int]], draw: random.Random
) -> Problem:
    name, other = draw.sample(NAMES, 2)
    words = {"name": name, "other": other, "things": draw.choice(THINGS)}
    question = f"{story.told} {story.asked}".format(**words, **numbers)
    lines = [
        sentence.format(eq=equation, **words)
        for (_, sentence), (equation, _) in zip(story.steps, worked, strict=True)
    ]
    return Problem(question, f"{' '.join(lines)}\n#### {worked[-1][1]}", story.level)
