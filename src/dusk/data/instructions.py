"""Instructions and preferences made from documentation: stand-ins for the sets of SOLAR's table 1.

    docs_questions     what is it, what does it do       for Alpaca-GPT4
    docs_tasks         short tasks in the way of FLAN    for OpenOrca
    docs_preferences   the right answer or a wrong one   for UltraFeedback

Each takes documents {"text", "source", "module", "name"}, and those alone whose "part" is one of `parts`
(a document without a part always counts). What is made depends on the seed and the document alone, not on
the order of the documents; no prompt stands twice. Preferences are about other documents than the two sets
that are tuned on.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from dusk.data.readers import read_rows, write_rows
from dusk.data.rephrase import RuleRephraser, math_alignment, math_instruct
from dusk.data.summaries import Summary, summary
from dusk.errors import DataError

TRAINING_PARTS = ("base", "continue")
DIFFICULTIES = {1: "scrambled words", 2: "of another package", 3: "of the same package"}

_DOCUMENT = ("text", "source", "module", "name")
_PROBLEM = ("question", "answer")
_SHOWN = 20  # unusable rows that one error names
_PREFERENCE_SHARE = 3  # one document in so many is for preferences
_CANDIDATES = 24  # wrong answers of which the one nearest in length is taken

_QUESTIONS = {
    "function": (
        "What does `{name}` do?",
        "Say in one sentence what `{name}` does.",
        "What is `{name}` for?",
        "I see `{name}` in some code. What does it do?",
    ),
    "class": ("What is `{name}`?", "Describe the class `{name}` in one sentence.", "What is `{name}` for?"),
    "module": ("What is the module `{name}` about?", "Describe the module `{name}` in one sentence."),
}
_LONGER_QUESTIONS = ("Explain `{name}`.", "Tell me about `{name}`.")


def write_instructions(
    out: str | Path, *, data: Sequence[str | Path], seed: int = 0, rows: int = 2000
) -> dict[str, int]:
    """Write tuning and preference sets, each of at most `rows` rows, into the folder `out`.

    From documents: docs_qa.jsonl, docs_tasks.jsonl, docs_preferences.jsonl. From problems {"question",
    "answer"}: math.jsonl and math_preferences.jsonl (SOLAR's Math-Instruct and Math-Alignment, drawn
    independently of one another). Preferences stand from easy to hard. Returns the rows of each, and how many
    were left out and why.

    Raises:
        DataError: rows that are neither documents nor problems, or too few to make every set.
    """
    documents, problems = _sorted_by_form([Path(file) for file in data])
    rejected: Counter[str] = Counter()
    made = {
        name: _easy_to_hard(islice(of_set, rows))
        for name, of_set in _sets(documents, problems, seed, rejected).items()
    }
    empty = [f"{name}: no row could be made" for name, of_set in made.items() if not of_set]
    if empty:
        raise DataError("the data give too little to ask about", problems=empty, remedy=_remedy(documents))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {name: write_rows(folder / f"{name}.jsonl", of_set) for name, of_set in made.items()}
    left_out = {"held-out documents": _held_out(documents), **rejected}
    return counts | {f"left out: {reason}": count for reason, count in left_out.items() if count}


def _sets(
    documents: list[dict[str, Any]], problems: list[dict[str, Any]], seed: int, rejected: Counter[str]
) -> dict[str, Iterator[dict[str, Any]]]:
    """The sets that there is data for, by name."""
    rephraser = RuleRephraser(seed)
    sets: dict[str, Iterator[dict[str, Any]]] = {}
    if documents:
        sets["docs_qa"] = docs_questions(documents, seed=seed)
        sets["docs_tasks"] = docs_tasks(documents, seed=seed)
        sets["docs_preferences"] = docs_preferences(documents, seed=seed)
    if problems:
        sets["math"] = math_instruct(_drawn(problems, f"{seed}:instruct"), rephraser, rejected)
        sets["math_preferences"] = math_alignment(_drawn(problems, f"{seed}:alignment"), rephraser, rejected)
    return sets


def _held_out(documents: Sequence[Mapping[str, Any]]) -> int:
    return sum(document.get("part") not in (None, *TRAINING_PARTS) for document in documents)


def _remedy(documents: Sequence[Mapping[str, Any]]) -> str:
    if documents and _held_out(documents) == len(documents):
        return "All documents are held out for evaluation: take those of base.jsonl or continue.jsonl."
    return "Give more documents or problems."


def _sorted_by_form(files: Sequence[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The documents and the problems of the files."""
    documents: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    neither: list[str] = []
    for row in (row for file in files for row in read_rows(file)):
        if _texts(row.fields, _DOCUMENT):
            documents.append(row.fields)
        elif _texts(row.fields, _PROBLEM):
            problems.append(row.fields)
        else:
            neither.append(f"{row.file}:{row.line}: has {', '.join(row.fields) or 'nothing'}")
    if neither or not (documents or problems):
        more = [f"and {len(neither) - _SHOWN} more"] if len(neither) > _SHOWN else []
        raise DataError(
            f"{len(neither)} rows are neither documents nor problems" if neither else "the data hold no row",
            problems=neither[:_SHOWN] + more,
            remedy=f"Documents have the texts {', '.join(_DOCUMENT)}; problems {', '.join(_PROBLEM)}.",
        )
    return documents, problems


def _texts(fields: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a row has all these fields, as texts."""
    return all(isinstance(fields.get(name), str) for name in names)


def _drawn(problems: Sequence[Mapping[str, Any]], order: str) -> list[Mapping[str, Any]]:
    return sorted(problems, key=lambda row: _digest(f"{order}:{row['question']}"))


def _easy_to_hard(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Preferences by difficulty or level, everything else as it comes."""
    return sorted(rows, key=_hardness)


def _hardness(row: Mapping[str, Any]) -> float:
    found = row.get("difficulty", row.get("level", 0)) if "rejected" in row else 0
    return found if isinstance(found, int | float) else 0


def docs_questions(
    documents: Iterable[Mapping[str, Any]], *, seed: int = 0, parts: Collection[str] = TRAINING_PARTS
) -> Iterator[dict[str, Any]]:
    """Rows {"prompt", "completion"}: a question about a name, answered by its first sentence or two."""
    for found in _summaries(documents, parts, for_preferences=False, order=f"{seed}:questions"):
        prompt, completion = _question(found, seed)
        yield {"prompt": prompt, "completion": completion}


def docs_tasks(
    documents: Iterable[Mapping[str, Any]], *, seed: int = 0, parts: Collection[str] = TRAINING_PARTS
) -> Iterator[dict[str, Any]]:
    """Rows {"prompt", "completion", "task"} with short answers, the tasks in equal shares where they can be."""
    found = _summaries(documents, parts, for_preferences=False, order=f"{seed}:tasks")
    packages = sorted({one.package for one in found})
    asked: set[str] = set()
    for one in found:
        begin = _digest(f"{seed}:task:{one.name}") % len(_TASKS)
        for name in (*list(_TASKS)[begin:], *list(_TASKS)[:begin]):
            made = _TASKS[name](one, packages)
            if made is not None and made[0] not in asked:
                asked.add(made[0])
                yield {"prompt": made[0], "completion": made[1], "task": name}
                break


def docs_preferences(
    documents: Iterable[Mapping[str, Any]], *, seed: int = 0, parts: Collection[str] = TRAINING_PARTS
) -> Iterator[dict[str, Any]]:
    """Rows {"prompt", "chosen", "rejected", "difficulty"}: the true answer and a wrong one of about its length.

    The wrong answer is, by difficulty: the true one with its words scrambled, the answer to a question about
    another package, or about another name of the same package (see `DIFFICULTIES`).
    """
    found = _summaries(documents, parts, for_preferences=True, order=f"{seed}:preferences")
    of_package: dict[str, list[Summary]] = {}
    for one in found:
        of_package.setdefault(one.package, []).append(one)
    for number, one in enumerate(found):
        difficulty = 1 + number % len(DIFFICULTIES)
        pool = of_package[one.package] if difficulty == 3 else found
        wrong = _scrambled(one.first, seed) if difficulty == 1 else _other(one, pool, difficulty, seed)
        if wrong is not None and wrong != one.first:
            prompt = _pick(_QUESTIONS[one.what], f"{seed}:{one.name}").format(name=one.name)
            yield {"prompt": prompt, "chosen": one.first, "rejected": wrong, "difficulty": difficulty}


def _summaries(
    documents: Iterable[Mapping[str, Any]], parts: Collection[str], *, for_preferences: bool, order: str
) -> list[Summary]:
    """One summary of each name, those for preferences or the others, in an order drawn by digest."""
    allowed = (document for document in documents if document.get("part") in (None, *parts))
    found = sorted(
        (one for one in map(summary, allowed) if one is not None), key=lambda one: (one.name, one.first)
    )
    distinct = {
        one.name: one
        for one in reversed(found)
        if (_digest(one.name) % _PREFERENCE_SHARE == 0) == for_preferences
    }
    return sorted(distinct.values(), key=lambda one: _digest(f"{order}:{one.name}"))


def _question(one: Summary, seed: int) -> tuple[str, str]:
    key = f"{seed}:{one.name}"
    if one.more != one.first and _digest(f"{key}:longer") % 2:
        return _pick(_LONGER_QUESTIONS, key).format(name=one.name), one.more
    return _pick(_QUESTIONS[one.what], key).format(name=one.name), one.first


def _package_task(one: Summary, packages: Sequence[str]) -> tuple[str, str] | None:
    if len(packages) < 2 or one.package in one.first:
        return None
    return f"Which of these is it about: {', '.join(packages)}?\n\n{one.first}", one.package


def _module_task(one: Summary, packages: Sequence[str]) -> tuple[str, str] | None:
    inside = one.name.removeprefix(one.module).lstrip(".")
    if one.what == "module" or not inside or inside == one.name:
        return None
    return f"In which module is `{inside}`?\n\n{one.first}", one.module


def _completion_task(one: Summary, packages: Sequence[str]) -> tuple[str, str] | None:
    words = one.first.split()
    if len(words) < 6:
        return None
    at = len(words) * 3 // 5
    return f"Complete the sentence about `{one.name}`: {' '.join(words[:at])}", " ".join(words[at:])


def _parameters_task(one: Summary, packages: Sequence[str]) -> tuple[str, str] | None:
    if not 1 <= len(one.parameters) <= 8:
        return None
    return f"List the parameters of `{one.name}`.", ", ".join(one.parameters)


def _blank_task(one: Summary, packages: Sequence[str]) -> tuple[str, str] | None:
    words = one.first.split(" ")
    places = [i for i, word in enumerate(words) if i and word.isalpha() and word.islower() and len(word) > 4]
    if not places:
        return None
    at = places[_digest(one.name) % len(places)]
    blanked = " ".join([*words[:at], "____", *words[at + 1 :]])
    return f"Fill in the blank: {blanked}", words[at]


_TASKS: dict[str, Callable[[Summary, Sequence[str]], tuple[str, str] | None]] = {
    "package": _package_task,
    "module": _module_task,
    "completion": _completion_task,
    "parameters": _parameters_task,
    "blank": _blank_task,
}


def _scrambled(sentence: str, seed: int) -> str:
    """The words of a sentence in another order, by digest."""
    words = sentence.split()
    keys = [_digest(f"{seed}:{place}:{sentence}") for place in range(len(words))]
    return " ".join(word for _, word in sorted(zip(keys, words, strict=True)))


def _other(one: Summary, pool: Sequence[Summary], difficulty: int, seed: int) -> str | None:
    """Another first sentence out of the pool, of about the same length."""
    begin = _digest(f"{seed}:wrong:{one.name}") % len(pool)
    candidates: list[str] = []
    for other in (*pool[begin:], *pool[:begin]):
        if other.first != one.first and (difficulty == 3 or other.package != one.package):
            candidates.append(other.first)
            if len(candidates) == _CANDIDATES:
                break
    return min(candidates, key=lambda text: abs(len(text) - len(one.first)), default=None)


def _pick(options: Sequence[str], key: str) -> str:
    return options[_digest(f"form:{key}") % len(options)]


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
