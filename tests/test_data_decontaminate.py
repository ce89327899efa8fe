"""Overlap with benchmarks, against sets of tuples of words; the presets; planted items; what is told."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dusk.data.arithmetic import distinct_problems
from dusk.data.benchmarks import Item, item_texts
from dusk.data.decontaminate import PRESETS, Preset, decontaminate, matches, run_lengths
from dusk.data.gram_index import GramIndex, Hit, write_index
from dusk.data.matches import excerpt
from dusk.data.words import words_of
from dusk.errors import DataError, SettingError


def written(file: Path, rows: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def shared_share(text: str, item: str, n: int) -> float:
    """The share of an item's words in runs of n that also stand in the text: by sets of tuples."""

    def of(words: str) -> list[str]:
        return re.findall(r"[^\W_]+", words.lower())

    theirs, mine = of(item), of(text)
    known = {tuple(mine[i : i + n]) for i in range(len(mine) - n + 1)}
    covered = {
        j
        for i in range(len(theirs))
        if tuple(theirs[i : i + n]) in known and i + n <= len(theirs)
        for j in range(i, i + n)
    }
    return len(covered) / len(theirs) if theirs else 0.0


WORDS = st.lists(st.sampled_from(["a", "b", "c", "A!", "é"]), max_size=10).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 4))
def test_shares_are_those_of_sets(tmp_path_factory: Any, texts: list[str], items: list[str], n: int) -> None:
    folder = tmp_path_factory.mktemp("index") / "index"
    write_index(folder, [Item("s", row, text) for row, text in enumerate(items)], {"s": n}, prompts_only=True)
    index = GramIndex(folder)
    hits: dict[int, list[Hit]] = {}
    for hit in index.hits(words_of(texts)):
        hits.setdefault(hit.text, []).append(hit)
    found = {
        (text, match.item): match.share
        for text, own in hits.items()
        for match in matches(own, index, Preset(words=n))
    }
    expected = {
        (t, i): round(share, 4)
        for t, text in enumerate(texts)
        for i, item in enumerate(items)
        if (share := shared_share(text, item, n))
    }
    assert found == expected


def test_a_collision_of_hashes_is_no_match(tmp_path: Path, monkeypatch: Any) -> None:
    """With all hashes made equal, everything is a candidate, and the words decide."""
    monkeypatch.setattr("dusk.data.words._mixed", lambda numbers: numbers * np.uint64(0) + np.uint64(7))
    write_index(tmp_path / "i", [Item("s", 1, "one two three")], {"s": 3}, prompts_only=True)
    index = GramIndex(tmp_path / "i")
    found = [
        hit.text for hit in index.hits(words_of(["x one two three", "four five six", "One, two. THREE"]))
    ]
    assert found == [0, 2]


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"question": "q", "answer": "a"}, ("q", "a")),
        ({"question": "q", "choices": ["x", "y"], "answer": 1, "subject": "s"}, ("q", "y")),
        (
            {
                "id": "1",
                "question": "q",
                "choices": {"text": ["x", "y"], "label": ["A", "B"]},
                "answerKey": "B",
            },
            ("q", "y"),
        ),
        ({"query": "q", "choices": ["x", "y"], "gold": 0, "ind": 4}, ("q", "x")),
        ({"sentence": "so _ won", "option1": "Ann", "option2": "Bo", "answer": "2"}, ("so Bo won", "")),
        ({"question": "q", "mc1_targets": {"choices": ["x", "y"], "labels": [0, 1]}}, ("q", "y")),
        ({"question": "q", "best_answer": "b", "mc1_targets": {}}, ("q", "b")),
        ({"prompt": "q", "completion": "a"}, ("q", "a")),
        ({"text": "t"}, ("t", "")),
        ({"instruction": "q", "input": "", "output": "a"}, ("q", "a")),
    ],
)
def test_items_of_benchmarks(fields: dict[str, Any], texts: tuple[str, str]) -> None:
    assert item_texts(fields) == texts


def test_runs_are_as_long_as_short_items_allow() -> None:
    sizes = {"long": [40] * 100, "short": [9] * 10 + [30] * 90, "tiny": [3] * 100}
    assert run_lengths(sizes, PRESETS["gpt3"]) == {"long": 13, "short": 9, "tiny": 8}
    assert set(run_lengths(sizes, PRESETS["tulu3"]).values()) == {8}


PROBLEMS = distinct_problems(4, 60, part="evaluation", seed=1)
OTHERS = distinct_problems(5, 200, part="train", seed=2)


def cut(text: str) -> str:
    words = text.split()
    return " ".join(words[: len(words) * 3 // 4])


CHANGES = {
    "verbatim": lambda text: text,
    "case": str.upper,
    "punctuation": lambda text: re.sub(r"[.,?!]", " --", text),
    "spaces": lambda text: text.replace(" ", " \n"),
    "cut": cut,
    "in the middle": lambda text: f"Solve this for me, please: {text} Thank you.",
}


@pytest.mark.parametrize("preset", ["gpt3", "tulu3"])
@pytest.mark.parametrize("how", CHANGES)
def test_planted_items_are_found_and_nothing_else(tmp_path: Path, preset: str, how: str) -> None:
    tests = written(
        tmp_path / "b" / "test.jsonl", [{"question": p.question, "answer": p.answer} for p in PROBLEMS]
    )
    planted = [
        {"prompt": CHANGES[how](p.question), "completion": "?", "id": f"p{n}"} for n, p in enumerate(PROBLEMS)
    ]
    clean = [
        {"prompt": f"{n} words of my own about things that happened", "completion": "ok"} for n in range(50)
    ]
    rows = planted + clean
    random.Random(0).shuffle(rows)
    told = decontaminate(
        tmp_path / "out",
        data=[written(tmp_path / "in.jsonl", rows)],
        against=[tests],
        preset=preset,
        common_rows=0,
    )
    expected = [row for row in rows if "id" not in row]
    reference = PRESETS[preset]
    missed = {
        row["id"]
        for row in planted
        if not any(
            shared_share(row["prompt"], p.question, reference.words) > reference.item_share for p in PROBLEMS
        )
    }
    assert [row for row in read(tmp_path / "out" / "train.jsonl") if row.get("id") not in missed] == expected
    assert len(missed) <= len(PROBLEMS) // 20
    assert told["benchmarks"]["b/test"]["matched"] >= len(PROBLEMS) - len(missed)
    shown = read(tmp_path / "out" / "matches.jsonl")
    assert all(shared_share(m["item_text"], m["shared"], len(m["shared"].split())) == 1 for m in shown)


def test_a_set_of_which_too_little_matches_keeps_its_rows(tmp_path: Path) -> None:
    """Tülu 3's two per cent: one of sixty is less, two are more."""
    tests = written(
        tmp_path / "b" / "test.jsonl", [{"question": p.question, "answer": "x"} for p in PROBLEMS]
    )
    for planted, kept in ((1, 2), (2, 1)):
        rows = [{"prompt": p.question, "completion": "?"} for p in PROBLEMS[:planted]]
        rows.append({"prompt": "mine", "completion": "?"})
        folder = tmp_path / f"out{planted}"
        data = [written(tmp_path / f"in{planted}.jsonl", rows)]
        told = decontaminate(folder, data=data, against=[tests], preset="tulu3")
        assert (told["kept"], told["benchmarks"]["b/test"]["left_out"]) == (kept, planted == 2)
        assert {match["left_out"] for match in read(folder / "matches.jsonl")} == {planted == 2}


def test_phrases_in_more_than_ten_rows_are_common(tmp_path: Path) -> None:
    phrase = "how many of these does she have left after giving half of them to him"
    items = [{"question": f"Ann has things. {phrase}?", "answer": "3"}]
    rows = [{"prompt": f"{n + 100} {phrase} {n + 100}", "completion": "?"} for n in range(12)]
    rows.append(
        {"prompt": items[0]["question"], "completion": "ann has things how many of these does she have left"}
    )
    tests, data = written(tmp_path / "b" / "t.jsonl", items), written(tmp_path / "in.jsonl", rows)
    told = decontaminate(tmp_path / "a", data=[data], against=[tests])
    assert (told["kept"], told["common_runs"]) == (12, 3)
    assert decontaminate(tmp_path / "b2", data=[data], against=[tests], common_rows=0)["kept"] == 0


def test_all_kinds_of_rows_are_compared(tmp_path: Path) -> None:
    secret = "the quick brown fox jumps over one lazy dog and then it sleeps for a week"
    rows: list[dict[str, Any]] = [
        {"text": f"before {secret} after"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": secret}]},
        {"prompt": "q", "chosen": "a", "rejected": secret},
        {"instruction": "do", "input": secret, "output": "ok"},
        {"query": secret, "response": "x", "type": "GSM_Rephrased"},
        {"prompt": "q", "completion": "a"},
    ]
    tests = written(tmp_path / "b" / "t.jsonl", [{"text": secret}])
    told = decontaminate(tmp_path / "out", data=[written(tmp_path / "in.jsonl", rows)], against=[tests])
    assert told["left_out"] == {"overlaps with a benchmark": 5}
    assert (tmp_path / "out" / "train.jsonl").read_text() == json.dumps(rows[-1]) + "\n"


def test_what_cannot_be_used(tmp_path: Path) -> None:
    tests = written(tmp_path / "b" / "t.jsonl", [{"strange": 1}])
    data = written(tmp_path / "in.jsonl", [{"prompt": "q", "completion": "a"}, {"prompt": "q"}])
    with pytest.raises(DataError, match=r"t.jsonl:1: no form of a benchmark"):
        decontaminate(tmp_path / "out", data=[data], against=[tests])
    with pytest.raises(SettingError, match="no preset 'gpt4'"):
        decontaminate(tmp_path / "out", data=[data], against=[tests], preset="gpt4")
    good = written(tmp_path / "g" / "t.jsonl", [{"text": "short"}])
    with pytest.raises(DataError, match=r"in.jsonl:2|cannot be used"):
        decontaminate(tmp_path / "out", data=[data], against=[good])
    told = decontaminate(tmp_path / "out", data=[data], against=[good], skip_bad=True)
    assert (told["benchmarks"]["g/t"]["whole"], told["benchmarks"]["g/t"]["too_short"]) == (0, 1)
    assert told["rows"] == 2 == told["kept"] + 1


def test_the_place_of_a_match_is_shown() -> None:
    text = "x " * 500 + "The answer: is, forty two! " + "y " * 500
    shown = excerpt(text, "the answer is forty two")
    assert "The answer: is, forty two!" in shown
    assert len(shown) < 410


@pytest.mark.parametrize("preset", ["gpt3", "tulu3"])
def test_short_items_are_compared_whole(tmp_path: Path, preset: str) -> None:
    tests = written(
        tmp_path / "b" / "t.jsonl",
        [
            {
                "question": "What colour is the Sun?",
                "answer": "White, seen from space, as astronauts can tell",
            },
            {"question": "Who made the first clock that ran for a week?", "answer": "Nobody knows"},
        ],
    )
    rows = [
        {"prompt": "WHAT colour -- is the sun", "completion": "?"},
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "What colour is the Sun?"},
            ],
            "completion": [{"role": "assistant", "content": "?"}],
        },
        {"prompt": "What colour is the Sun today?", "completion": "?"},
        {"prompt": "Say", "completion": "What colour is the Sun?"},
    ]
    data = written(tmp_path / "in.jsonl", rows)
    told = decontaminate(tmp_path / "out", data=[data], against=[tests], preset=preset)
    assert read(tmp_path / "out" / "train.jsonl") == rows[2:]
    found = told["benchmarks"]["b/t"]
    assert (found["whole"], found["matched_whole"], found["matched"]) == (
        (2 if preset == "gpt3" else 1),
        1,
        1,
    )
    assert [m["shared"] for m in read(tmp_path / "out" / "matches.jsonl")] == ["what colour is the sun"] * 2


def test_a_prompt_of_a_word_or_two_tells_no_item(tmp_path: Path) -> None:
    """MMLU has items that are called "Keynes" and "4 3" and no more."""
    items = [{"question": asked, "answer": "x"} for asked in ("Keynes", "4 + 3 = ?", "What is Nmap?", "...")]
    rows = [{"prompt": asked, "completion": "y"} for asked in ("Keynes?", "4 + 3", "what is nmap")]
    tests, data = written(tmp_path / "b" / "t.jsonl", items), written(tmp_path / "in.jsonl", rows)
    told = decontaminate(tmp_path / "out", data=[data], against=[tests])
    assert read(tmp_path / "out" / "train.jsonl") == rows[:2]
    found = told["benchmarks"]["b/t"]
    assert (found["items"], found["whole"], found["too_short"], found["matched"]) == (4, 1, 2, 1)


def test_benchmarks_of_one_name_are_refused_and_of_one_file_name_told_apart(tmp_path: Path) -> None:
    item = [{"text": "one two three four"}]
    one, other = (
        written(tmp_path / "1" / "b" / "t.jsonl", item),
        written(tmp_path / "2" / "b" / "t.jsonl", item),
    )
    third = written(tmp_path / "c" / "t.jsonl", [{"text": "five six seven eight"}])
    data = written(tmp_path / "in.jsonl", [{"text": "a"}])
    with pytest.raises(SettingError, match="are both called b/t"):
        decontaminate(tmp_path / "out", data=[data], against=[one, other])
    decontaminate(tmp_path / "out", data=[data], against=[one, third])
    known = json.loads((tmp_path / "out" / "dusk.json").read_text())["settings"]["against"]
    assert list(known) == ["b/t", "c/t"]
    assert len(set(known.values())) == 2


def test_a_run_killed_while_it_made_the_index_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    tests = written(tmp_path / "b" / "t.jsonl", [{"text": "one two three four"}])
    data = written(tmp_path / "in.jsonl", [{"text": "one two three four"}, {"text": "a"}])

    def killed(*args: Any, **kwargs: Any) -> None:
        write_index(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr("dusk.data.decontaminate.write_index", killed)
    with pytest.raises(KeyboardInterrupt):
        decontaminate(tmp_path / "out", data=[data], against=[tests])
    assert list((tmp_path / "out.partial").rglob("index.partial"))
    monkeypatch.undo()
    assert decontaminate(tmp_path / "out", data=[data], against=[tests])["kept"] == 1


def test_work_of_another_format_is_begun_anew(tmp_path: Path, monkeypatch: Any) -> None:
    tests = written(tmp_path / "b" / "t.jsonl", [{"text": "one two three four"}])
    data = written(tmp_path / "in.jsonl", [{"text": "one two three four"}, {"text": "a"}])
    with monkeypatch.context() as patch:
        patch.setattr("dusk.data.decontaminate.collect", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decontaminate(tmp_path / "out", data=[data], against=[tests])
    part = next((tmp_path / "out.partial").rglob("000000.json"))
    monkeypatch.setattr("dusk.data.outputs._WORK_FORMAT", 1)
    part.write_text("of another form")
    assert decontaminate(tmp_path / "out", data=[data], against=[tests])["kept"] == 1
