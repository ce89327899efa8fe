"""The tasks of the Open LLM Leaderboard (version 1) as it measured them, with task files in `tasks/leaderboard`.

It ran lm-evaluation-harness at commit b281b0921b636bc36ad05c0b0b0763bd6dd43463 (15 June 2023). There, one
generator seeded with 42 first shuffles a task's documents and then draws the shots of each document in that
order; GSM8K's answer ends at the first ":" and counts if the text after `####` is the reference's, to the letter;
and causal models get their prompts without BOS (`add_bos_token: false` of the suite). MMLU and TruthfulQA draw no
shots, and what the harness asks today for them is the same.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

_ANSWER = re.compile(r"#### (-?[0-9.,]+)")


class LeaderboardTask(ConfigurableTask):  # type: ignore[misc]  # the harness is untyped
    """A task whose documents and shots come from one generator, in the order of June 2023."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        self._order: list[int] = []

    def set_fewshot_seed(self, seed: int | None = None) -> None:
        """Shuffle the documents by the seed; the shots are drawn by what the generator gives next."""
        super().set_fewshot_seed(seed)
        generator = random.Random(seed)
        self._order = list(range(len(self.task_docs)))
        generator.shuffle(self._order)
        self.sampler.rnd = generator

    def doc_iterator(
        self,
        *,
        rank: int = 0,
        limit: int | None = None,
        world_size: int = 1,
        samples: list[int] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """The documents in the shuffled order under their own numbers, `limit` of them."""
        documents = self.task_docs
        for number in self._order[: limit or None]:
            if samples is None or number in samples:
                yield number, documents[number]


def hellaswag_docs(documents: Any) -> Any:
    """HellaSwag's rows with `query`, `choices` and `gold`: the activity, and texts without WikiHow's brackets."""

    def fields(row: Mapping[str, Any]) -> dict[str, Any]:
        context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}"
        return {
            "query": _without_brackets(f"{row['activity_label']}: {context}"),
            "choices": [_without_brackets(ending) for ending in row["endings"]],
            "gold": int(row["label"]),
        }

    return documents.map(fields)


def _without_brackets(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def winogrande_answer(row: Mapping[str, Any]) -> int:
    """Which option is right, from 0."""
    return int(row["answer"]) - 1


def winogrande_beginnings(row: Mapping[str, Any]) -> list[str]:
    """The sentence up to and with each option in the pronoun's place."""
    before = row["sentence"].partition("_")[0]
    return [before + row["option1"], before + row["option2"]]


def winogrande_rest(row: Mapping[str, Any]) -> str:
    """What follows the pronoun, which is what gets scored."""
    rest: str = row["sentence"].partition("_")[2]
    return rest.strip()


def gsm8k_results(row: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`acc`: whether the number after `####` is the reference's, commas apart."""
    written = _number(results[0])
    return {"acc": float(written is not None and written == _number(row["answer"]))}


def _number(text: str) -> str | None:
    found = _ANSWER.search(text)
    return found[1].strip().replace(",", "") if found else None
