"""Duplicates, against sets of shingles; and the filter of FLAN's tasks."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dusk.data import units as units_module
from dusk.data.deduplicate import deduplicate
from dusk.data.minhash import BAND_ROWS, BANDS, Groups, band_keys, likeness, signatures
from dusk.data.task_filter import TABLE_8, canonical, filter_tasks, question_digest
from dusk.errors import DataError, SettingError

VOCABULARY = [f"word{n}" for n in range(2000)]
DRAW = random.Random(5)


def some_text(words: int) -> str:
    return " ".join(DRAW.choices(VOCABULARY, k=words))


def edited(text: str, changes: int) -> str:
    words = text.split()
    for place in DRAW.sample(range(len(words)), changes):
        words[place] = "changed"
    return " ".join(words)


def jaccard(one: str, other: str) -> float:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[^\W_]+", text.lower())
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    mine, theirs = shingles(one), shingles(other)
    return len(mine & theirs) / len(mine | theirs)


def written(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_likeness_estimates_the_jaccard_index() -> None:
    texts = [some_text(200) for _ in range(60)]
    others = [edited(text, n % 20) for n, text in enumerate(texts)]
    estimated = likeness(signatures(texts), signatures(others))
    exact = np.array([jaccard(one, other) for one, other in zip(texts, others, strict=True)])
    errors = estimated - exact
    # the deviation of a share of 120 is at most 0.046, and the errors' mean that of 60 of them
    assert abs(errors.mean()) < 3 * 0.046 / 60**0.5
    assert abs(errors).max() < 4 * 0.046
    assert exact.min() < 0.5 < 1 == exact.max()


def test_signatures_depend_on_the_text_alone() -> None:
    texts = ["", "one", "Two words", "a b c d e f", "ä ö ü ß é è", "..."]
    together = signatures(texts)
    assert np.array_equal(together, np.concatenate([signatures([text]) for text in texts]))
    assert (together[[0, 5]] == np.uint32(0xFFFFFFFF)).all()
    assert likeness(signatures(["two WORDS!"]), together[2:3]) == 1
    assert len({band_keys(together, 0)[row] for row in range(1, 5)}) == 4
    assert together.shape == (6, BANDS * BAND_ROWS)


def test_groups_are_known_by_their_first_row() -> None:
    groups = Groups(6)
    for pair in ((4, 5), (3, 4), (1, 3), (2, 2)):
        groups.join(*pair)
    assert [groups.of(row) for row in range(6)] == [0, 1, 2, 1, 1, 1]


def test_near_duplicates_are_found_and_others_are_not(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(units_module, "UNIT_BYTES", 50_000)
    originals = [some_text(100) for _ in range(200)]
    rows: list[dict[str, Any]] = [{"text": text, "what": "original"} for text in originals]
    rows += [{"text": text.upper() + "!", "what": "exact"} for text in originals[:40]]
    rows += [{"text": edited(text, 1), "what": "near"} for text in originals[40:80]]  # index 0.90
    rows += [{"text": edited(text, 10), "what": "far"} for text in originals[80:120]]  # index about 0.35
    file = written(tmp_path / "in.jsonl", rows)
    told = deduplicate(tmp_path / "out", data=[file], workers=2, rejects=tmp_path / "rejects.jsonl")
    assert [row["what"] for row in read(tmp_path / "out")] == ["original"] * 200 + ["far"] * 40
    assert told["left_out"] == {"stands twice": 40, "nearly stands twice": 40}
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert {(one["row"]["what"], one["reason"]) for one in rejects} == {
        ("exact", "stands twice"),
        ("near", "nearly stands twice"),
    }
    assert deduplicate(tmp_path / "exact", data=[file], method="exact")["left_out"] == {"stands twice": 40}
    deduplicate(tmp_path / "alone", data=[file], workers=1)
    assert (tmp_path / "alone/train.jsonl").read_bytes() == (tmp_path / "out/train.jsonl").read_bytes()


def test_what_is_compared(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why is that so?", "completion": "Because."},
        {"prompt": "why is THAT so", "completion": "No idea, sorry."},
        {"prompt": "?", "completion": "!"},
        {"prompt": "!", "completion": "?"},
        {"prompt": "?", "completion": "!"},
    ]
    file = written(tmp_path / "in.jsonl", rows)
    assert deduplicate(tmp_path / "all", data=[file])["left_out"] == {"stands twice": 1}
    assert deduplicate(tmp_path / "asked", data=[file], prompts_only=True)["left_out"] == {"stands twice": 2}
    assert deduplicate(tmp_path / "none", data=[written(tmp_path / "e.jsonl", [])])["rows"] == 0
    with pytest.raises(SettingError, match="threshold"):
        deduplicate(tmp_path / "out", data=[file], threshold=0.0)


def orca(number: int, question: str, **more: Any) -> dict[str, Any]:
    return {"id": f"flan.{number}", "system_prompt": "", "question": question, "response": "a", **more}


def test_tasks_are_told_by_field_id_and_question(tmp_path: Path) -> None:
    flan = written(
        tmp_path / "flan.jsonl",
        [
            {"inputs": "How many ducks?", "task_name": "cot_gsm8k"},
            {"inputs": "Is it so?", "task": "boolq"},
            {"inputs": "both", "task": "boolq"},
            {"inputs": "both", "task": "drop:2.0.0"},
            {"digest": question_digest("Only a digest"), "task": "winogrande:1.1.0"},
        ],
    )
    rows = [
        orca(1, "how many ducks"),
        orca(2, "is it so", system_prompt="be brief"),
        orca(3, "nobody knows"),
        orca(4, "a", task="ai2_arcARCChallenge:1.0.0"),
        orca(5, "b") | {"id": "hellaswag:1.1.0.17"},
        orca(6, "Both!"),
        orca(7, "only, a: digest"),
        orca(8, "unknown") | {"id": "cot.8"},
    ]
    file = written(tmp_path / "in.jsonl", rows)
    told = filter_tasks(tmp_path / "out", data=[file], flan=[flan])
    assert [row["question"] for row in read(tmp_path / "out")] == ["is it so", "nobody knows", "unknown"]
    assert told["left_out"] == {
        "of the task cot_gsm8k": 1,
        "of the task ai2_arc/ARC-Challenge:1.0.0": 1,
        "of the task hellaswag:1.1.0": 1,
        "of the task drop:2.0.0": 1,
        "of the task winogrande:1.1.0": 1,
    }
    assert told["decided"] == {"by its question in FLAN": 4, "by the id": 1, "by the row's field": 1}
    assert told["undecided"] == {"cot": 1, "flan": 1}
    strict = filter_tasks(tmp_path / "strict", data=[file], flan=[flan], undecided="leave-out")
    assert strict["kept"] == 1
    assert strict["left_out"]["of an undecided task"] == 2


def test_table_8_and_what_is_no_flan(tmp_path: Path) -> None:
    assert len(TABLE_8) == 10
    assert canonical("ai2_arc/ARC-Challenge:1.0.0") == canonical("ai2_arcARCChallenge:1.0.0")
    data, wrong = (
        written(tmp_path / "in.jsonl", [orca(1, "a")]),
        written(tmp_path / "f.jsonl", [{"inputs": "a"}]),
    )
    with pytest.raises(DataError, match=r"f.jsonl:1: no row of FLAN"):
        filter_tasks(tmp_path / "out", data=[data], flan=[wrong])
    assert not (tmp_path / "out").exists()
