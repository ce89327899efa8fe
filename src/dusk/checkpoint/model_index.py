"""Scores of `dusk eval` as the card's `model-index`, the form in which the hub shows them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dusk.errors import DataError

_SETS = {
    "arc_challenge": ("AI2 Reasoning Challenge", "allenai/ai2_arc", "ARC-Challenge", "test"),
    "hellaswag": ("HellaSwag", "Rowan/hellaswag", None, "validation"),
    "mmlu": ("MMLU", "cais/mmlu", "all", "test"),
    "truthfulqa_mc2": ("TruthfulQA", "truthfulqa/truthful_qa", "multiple_choice", "validation"),
    "winogrande": ("Winogrande", "allenai/winogrande", "winogrande_xl", "validation"),
    "gsm8k": ("GSM8K", "openai/gsm8k", "main", "test"),
}
"""A task's name without `_v1` → the data set's name, its id on the hub, config and split."""


def model_index(results: Path, folder: Path, title: str) -> list[dict[str, Any]]:
    """The `model-index` of a model from a results file that has its scores.

    Shares are in percent, as on the leaderboard; errors, items and shots stand as arguments of the metric.

    Raises:
        DataError: no results of `dusk eval`, or none of this folder; the models that it has are named.
    """
    try:
        told = json.loads(results.read_text(encoding="utf-8"))
        entries = {entry["task"]: entry for entry in told["tasks"]}
        row = _row(told["models"], folder, results)
        found = [_result(told, column, entries, row) for column in told["columns"] if _score(column, row)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{results} holds no results of `dusk eval`: {error!r}") from error
    return [{"name": title, "results": found}]


def _row(models: list[dict[str, Any]], folder: Path, results: Path) -> dict[str, Any]:
    """The folder's own row: evaluated at its path, or else under its name."""
    for matches in (
        lambda row: Path(row["path"]).expanduser().resolve() == folder.resolve(),
        lambda row: row["name"] == folder.resolve().name,
    ):
        found = [row for row in models if matches(row)]
        if len(found) == 1:
            return found[0]
    names = ", ".join(str(row["name"]) for row in models)
    raise DataError(
        f"{results} has no scores of {folder}; it has those of {names}.",
        remedy=f"`dusk eval {folder} --suite ... --out {results}` adds them.",
    )


def _score(column: Mapping[str, Any], row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = row["scores"].get(column["entry"], {}).get(column["metric"])
    return found


def _result(
    told: Mapping[str, Any], column: Mapping[str, Any], entries: Mapping[str, Any], row: Mapping[str, Any]
) -> dict[str, Any]:
    score = _score(column, row)
    assert score is not None
    percent = 100 if score["higher_is_better"] else 1
    entry = entries[column["entry"]]
    arguments = {"items": score["n"], "suite": told["suite"]}
    if entry.get("num_fewshot") is not None:
        arguments["num_fewshot"] = entry["num_fewshot"]
    if score["stderr"] is not None:
        arguments["stderr"] = round(percent * score["stderr"], 4)
    by = f"lm-evaluation-harness {told['versions'].get('lm_eval', '')}".strip()
    return {
        "task": {"type": "text-generation"},
        "dataset": dict(_dataset(column)),
        "metrics": [
            {
                "type": column["metric"].partition(",")[0],
                "value": round(percent * score["value"], 4),
                "name": f"{column['label']}, suite {told['suite']}, {by}",
                "args": arguments,
            }
        ],
    }


def _dataset(column: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    task = column["entry"].removesuffix("_v1")
    name, kind, config, split = _SETS.get(task, (column["label"], task, None, None))
    yield "name", name
    yield "type", kind
    if config:
        yield "config", config
    if split:
        yield "split", split
