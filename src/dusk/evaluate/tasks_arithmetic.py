"""The tasks of arithmetic word problems, one for each level of difficulty.

Asked as GSM8K is asked, without examples: the answer is worked out in words and ends with `#### number`.
Small models get few of them right, so the bits a byte of the reference answer are measured beside the exact
match.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dusk.evaluate.tasks_documents import in_turn

FIELDS = ("question", "answer", "level")

_FINAL_NUMBER = re.compile(r"####\s*\$?(-?[0-9.,]+)")


def make_items(
    rows: Iterable[Mapping[str, Any]], *, task: str, items: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Up to `items` problems {"question", "answer"} of each level, under `task_level_N`."""
    by_level: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_level.setdefault(int(row["level"]), []).append(row)
    return {
        f"{task}_level_{level}": [
            {"question": row["question"], "answer": row["answer"]}
            for row in in_turn(problems, [""] * len(problems), [p["question"] for p in problems], seed)[
                :items
            ]
        ]
        for level, problems in sorted(by_level.items())
    }


def final_number(text: str) -> str | None:
    """The first number after `####`, without separators of thousands and closing full stop; None without."""
    found = _FINAL_NUMBER.search(text)
    if found is None:
        return None
    number = found[1].replace(",", "").rstrip(".")
    return number.removesuffix(".0") or None


def process_results(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """From the text written and the reference answer's log-likelihood in nats.

    `exact_match` is 1 if the numbers after `####` agree; `answer_bits_per_byte` is the pair that the
    harness's bits_per_byte is summed from: the log-likelihood, and the bytes of the answer with the space
    before it.
    """
    written, (log_likelihood, _) = results
    wanted = final_number(doc["answer"])
    return {
        "exact_match": float(wanted is not None and final_number(written) == wanted),
        "answer_bits_per_byte": (log_likelihood, len(f" {doc['answer']}".encode())),
    }
