"""Published sets to rows of training: each source by hand, samples, bad rows, cards, any number of workers."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dusk.checkpoint import read_manifest
from dusk.data import units as units_module
from dusk.data.convert import convert, converted
from dusk.data.fields import RowError, UnwantedError
from dusk.data.hub import chosen, is_hub_id
from dusk.data.pii import masked, masked_text
from dusk.data.sources import SOURCES, source_of
from dusk.data.units import units
from dusk.errors import DataError, OutputError, SettingError

SYSTEM, USER = {"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}
BECAUSE = [{"role": "assistant", "content": "because"}]


def rated(text: str, *ratings: str) -> dict[str, Any]:
    return {"response": text, "annotations": {str(n): {"Rating": rating} for n, rating in enumerate(ratings)}}


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "alpaca-gpt4",
        {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "below is"},
        {"prompt": "Add.\n\n1 and 2", "completion": "3"},
    ),
    (
        "alpaca-gpt4",
        {"instruction": "Go.", "input": "", "output": "ok"},
        {"prompt": "Go.", "completion": "ok"},
    ),
    (
        "open-orca",
        {"id": "niv.1", "system_prompt": "be brief", "question": "why?", "response": "because"},
        {"prompt": [SYSTEM, USER], "completion": BECAUSE, "id": "niv.1"},
    ),
    (
        "open-orca",
        {"id": "t0.1", "system_prompt": "", "question": "why?", "response": "because"},
        {"prompt": "why?", "completion": "because", "id": "t0.1"},
    ),
    (
        "orca-dpo-pairs",
        {"system": "be brief", "question": "why?", "chosen": "because", "rejected": "no"},
        {
            "prompt": [SYSTEM, USER],
            "chosen": BECAUSE,
            "rejected": [{"role": "assistant", "content": "no"}],
        },
    ),
    (
        "ultrafeedback-cleaned",
        {
            "prompt": "why?",
            "chosen": [USER, *BECAUSE],
            "rejected": [USER, {"role": "assistant", "content": "no"}],
            "score_chosen": 8.5,
            "score_rejected": 2.0,
            "messages": [USER, *BECAUSE],
        },
        {"prompt": "why?", "chosen": "because", "rejected": "no", "score_chosen": 8.5, "score_rejected": 2.0},
    ),
    (
        "ultrafeedback",
        {
            "instruction": "why?",
            "completions": [rated("meh", "3", "N/A"), rated("best", "5", "4"), rated("best too", "4", "5")],
        },
        {"prompt": "why?", "chosen": "best", "rejected": "meh", "score_chosen": 4.5, "score_rejected": 3.0},
    ),
    (
        "metamath",
        {"query": "1+1?", "response": "The answer is: 2", "type": "MATH_Rephrased", "original_question": "q"},
        {"prompt": "1+1?", "completion": "The answer is: 2"},
    ),
    (
        "math",
        {"problem": "1+1?", "solution": r"\boxed{2}", "level": "Level 3", "type": "Algebra"},
        {"prompt": "1+1?", "completion": r"\boxed{2}", "level": 3},
    ),
    ("gsm8k", {"question": "1+1?", "answer": "2\n#### 2"}, {"prompt": "1+1?", "completion": "2\n#### 2"}),
    (
        "trl",
        {"system": "be brief", "prompt": "why?", "chosen": "because", "rejected": "no", "id": 7},
        {
            "prompt": [SYSTEM, USER],
            "chosen": BECAUSE,
            "rejected": [{"role": "assistant", "content": "no"}],
            "id": 7,
        },
    ),
    ("trl", {"messages": [USER, *BECAUSE], "source": "x"}, {"messages": [USER, *BECAUSE], "source": "x"}),
    ("trl", {"text": "words", "other": 1}, {"text": "words"}),
    (
        "trl",
        {"chosen": [USER, *BECAUSE], "rejected": [USER, {"role": "assistant", "content": "no"}]},
        {"prompt": [USER], "chosen": BECAUSE, "rejected": [{"role": "assistant", "content": "no"}]},
    ),
    (
        "trl",
        {
            "conversations": [
                {"from": "system", "value": "be brief"},
                {"from": "human", "value": "why?"},
                {"from": "gpt", "value": "because"},
            ]
        },
        {"messages": [SYSTEM, USER, *BECAUSE]},
    ),
]


@pytest.mark.parametrize(("name", "fields", "row"), CASES)
def test_each_source(name: str, fields: dict[str, Any], row: dict[str, Any]) -> None:
    named = {} if name == "trl" else {"source": name}
    assert converted(fields, SOURCES[name]) == row | named
    assert source_of(fields).name == name or "text" not in row


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("alpaca-gpt4", {"instruction": "a", "output": " "}, "output is empty"),
        ("alpaca-gpt4", {"instruction": "a"}, "output is absent"),
        ("open-orca", {"system_prompt": 3, "question": "a", "response": "b"}, "system_prompt is no text"),
        ("ultrafeedback-cleaned", {"prompt": "a", "chosen": [USER], "rejected": "b"}, "chosen does not end"),
        ("ultrafeedback", {"instruction": "a", "completions": []}, "completions"),
        ("ultrafeedback", {"instruction": "a", "completions": ["x"]}, "no object"),
        ("trl", {"prompt": "a"}, "needs"),
        (
            "trl",
            {"chosen": [USER, *BECAUSE], "rejected": [USER, *BECAUSE]},
            "chosen and rejected are the same",
        ),
        ("trl", {"chosen": BECAUSE, "rejected": [{"role": "assistant", "content": "no"}]}, "prompt is empty"),
        ("trl", {"conversations": [{"from": "human"}]}, "without a content"),
    ],
)
def test_rows_that_lack_something(name: str, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(RowError, match=why):
        converted(fields, SOURCES[name])


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("metamath", {"query": "a", "response": "b", "type": "GSM_SV"}, "GSM8K"),
        ("orca-dpo-pairs", {"system": "", "question": "a", "chosen": "b", "rejected": "b"}, "the same"),
        ("ultrafeedback", {"instruction": "a", "completions": [rated("x", "3"), rated("y", "3")]}, "alike"),
        ("ultrafeedback", {"instruction": "a", "completions": [rated("x", "3"), rated("y", "N/A")]}, "two"),
    ],
)
def test_rows_that_are_not_wanted(name: str, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(UnwantedError, match=why):
        converted(fields, SOURCES[name])


def test_zephyrs_rejected_answer_is_drawn_by_the_seed() -> None:
    answers = [rated(str(n), str(n)) for n in (1, 2, 3, 5)]
    drawn = Counter(
        converted({"instruction": f"q{n}", "completions": answers}, SOURCES["ultrafeedback"], n % 2)[
            "rejected"
        ]
        for n in range(600)
    )
    assert set(drawn) == {"1", "2", "3"}
    assert min(drawn.values()) > 150  # of 200 expected; 150 is 4 deviations away
    assert (
        len(
            {
                converted({"instruction": "q", "completions": answers}, SOURCES["ultrafeedback"], seed)[
                    "rejected"
                ]
                for seed in range(20)
            }
        )
        > 1
    )


def written(file: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


def instructions(count: int) -> list[Any]:
    return [{"instruction": f"Say {n}.", "input": "", "output": str(n), "id": f"i{n}"} for n in range(count)]


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_bytes().split(b"\n")[:-1]]


BAD: list[Any] = [
    "{broken",
    {"instruction": "a", "output": ""},
    {"instruction": "a"},
    {"instruction": "again", "output": "a", "id": "i3"},
]


def test_bad_rows_stop_everything_and_are_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path / "in.jsonl", instructions(5) + BAD[:3])
    with pytest.raises(DataError, match="3 rows that cannot be used") as caught:
        convert(tmp_path / "out", data=[file])
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        f"{file}:{n}" for n in (6, 7, 8)
    ]
    assert not (tmp_path / "out").exists()


def test_an_id_that_stands_twice_is_named(tmp_path: Path) -> None:
    file = written(tmp_path / "in.jsonl", instructions(5) + BAD[3:])
    with pytest.raises(DataError, match="ids: a row that cannot be used") as caught:
        convert(tmp_path / "out", data=[file])
    assert caught.value.problems == [f"{file}:6: the id stands twice"]


def test_bad_rows_are_skipped_counted_and_written_out(tmp_path: Path) -> None:
    file = written(tmp_path / "in.jsonl", instructions(5) + BAD)
    told = convert(tmp_path / "out", data=[file], skip_bad=True, rejects=tmp_path / "rejects.jsonl")
    reasons = {"not JSON": 1, "output is empty": 1, "the id stands twice": 1}
    assert (told["rows"], told["kept"]) == (9, 5)
    assert {k: v for k, v in told["left_out"].items() if not k.startswith("needs")} == reasons
    assert sum(told["left_out"].values()) == 4
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["file"], reject["line"], reject["row"]) for reject in rejects] == [
        ("in.jsonl", 6 + n, row) for n, row in enumerate(BAD)
    ]


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.parquet"])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, name: str, monkeypatch: Any) -> None:
    rows = [*instructions(3000), BAD[1], *instructions(10)]
    plain = written(tmp_path / "in.jsonl", rows)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    if name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name, row_group_size=500)
    monkeypatch.setattr(units_module, "UNIT_BYTES", 30_000)
    told = {
        workers: convert(
            tmp_path / f"out{workers}",
            data=[tmp_path / name],
            skip_bad=True,
            rows=1000,
            workers=workers,
            rejects=tmp_path / f"rejects{workers}.jsonl",
        )
        for workers in (1, 2)
    }
    assert told[1] | {"out": ""} == told[2] | {"out": ""}
    assert told[1]["rows"] == 3011
    assert told[1]["left_out"] == {"not in the sample": 2000, "the id stands twice": 10, "output is empty": 1}
    for of in ("out{}/train.jsonl", "rejects{}.jsonl"):
        one, two = ((tmp_path / of.format(n)).read_bytes() for n in (1, 2))
        assert one == two
    assert len(read(tmp_path / "out1")) == 1000
    assert sorted(p.name for p in (tmp_path / "out1").iterdir()) == ["README.md", "dusk.json", "train.jsonl"]


def test_units_cover_a_file_once(tmp_path: Path, monkeypatch: Any) -> None:
    file = written(tmp_path / "in.jsonl", [*instructions(500), "", "x"])
    monkeypatch.setattr(units_module, "UNIT_BYTES", 777)
    found = units([file, file])
    lines = [row for unit in found[: len(found) // 2] for row in unit.rows()]
    assert [line for line, _ in lines] == list(range(1, 503))
    assert b"".join(text for _, text in lines if isinstance(text, bytes)) == file.read_bytes().replace(
        b"\n\n", b"\n"
    )
    assert [unit.number for unit in found] == list(range(len(found)))
    assert sum(unit.last for unit in found) == 2


def test_a_sample_depends_on_seed_and_rows_alone(tmp_path: Path) -> None:
    rows = instructions(200)
    one = written(tmp_path / "a.jsonl", rows)
    other = written(tmp_path / "b.jsonl", rows[::-1])
    samples = {}
    for name, file, seed in (("a", one, 0), ("b", other, 0), ("c", one, 1)):
        convert(tmp_path / name, data=[file], rows=50, seed=seed)
        samples[name] = {row["prompt"] for row in read(tmp_path / name)}
    assert samples["a"] == samples["b"] != samples["c"]
    assert all(len(sample) == 50 for sample in samples.values())


def test_solars_numbers_of_rows() -> None:
    assert {name: source.most for name, source in SOURCES.items() if source.most} == {
        "alpaca-gpt4": 52_000,
        "open-orca": 100_000,
        "orca-dpo-pairs": 12_900,
        "ultrafeedback-cleaned": 60_800,
        "metamath": 52_000,
    }


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    file = written(tmp_path / "in.jsonl", instructions(3))
    with pytest.raises(SettingError, match="solar says how many"):
        convert(tmp_path / "out", data=[file], rows="solar")
    with pytest.raises(SettingError, match="no source 'open-orka'"):
        convert(tmp_path / "out", data=[file], source="open-orka")
    (tmp_path / "taken").write_text("")
    with pytest.raises(SettingError, match="exists already"):
        convert(tmp_path / "out", data=[file], rejects=tmp_path / "taken")
    with pytest.raises(DataError, match="no such file"):
        convert(tmp_path / "out", data=[tmp_path / "none.jsonl"])


def test_a_full_disk_leaves_nothing(tmp_path: Path, file_size_limit: Any) -> None:
    file = written(tmp_path / "in.jsonl", instructions(5000))
    with file_size_limit(20_000), pytest.raises(OutputError):
        convert(tmp_path / "out", data=[file], workers=1)
    assert not (tmp_path / "out").exists()
    assert convert(tmp_path / "out", data=[file])["kept"] == 5000  # the same command continues


def test_licences_are_carried_and_the_card_tells_everything(tmp_path: Path) -> None:
    orca = written(tmp_path / "orca" / "rows.jsonl", [CASES[2][1]])
    free = written(tmp_path / "free" / "rows.jsonl", [{"prompt": "q", "completion": "a", "id": "other"}])
    (tmp_path / "free" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    convert(tmp_path / "one", data=[orca], source="open-orca")
    told = convert(tmp_path / "both", data=[tmp_path / "one", free])
    assert told["licenses"] == ["cc-by-nc-4.0", "mit"]
    card = (tmp_path / "both" / "README.md").read_text()
    manifest = read_manifest(tmp_path / "both")
    assert manifest is not None
    assert all(source.digest in card for source in manifest.inputs)
    assert "Not for commercial use" in card
    assert "| kept | 2 |" in card
    assert manifest.lineage[0]["command"] == "data convert"


def test_masking_counts_and_leaves_arithmetic_alone() -> None:
    counts: Counter[str] = Counter()
    text = "Write to jane.doe+x@mail.example.org or +1 (555) 010-9999, (555) 010-9999, 555-010-9999."
    assert masked_text(text, counts) == "Write to [email] or [phone], [phone], [phone]."
    assert counts == {"e-mail addresses": 1, "telephone numbers": 3}
    for kept in (
        "3 + 4 = 7",
        "1,000,000",
        "2023-10-11",
        "12 + 5551234567",
        "a@b",
        "1 + 20 + 300 + 4000",
        "#### 72",
    ):
        assert masked_text(kept, Counter()) == kept
    row = {"id": "a@b.org", "prompt": [{"role": "user", "content": "c@d.org"}]}
    assert masked(row, Counter()) == {"id": "a@b.org", "prompt": [{"role": "user", "content": "[email]"}]}


def test_what_is_a_hub_id_and_which_files_of_it() -> None:
    assert is_hub_id("Open-Orca/OpenOrca")
    assert is_hub_id("owner/name@main:data/train_prefs-*")
    assert not is_hub_id("folder/rows.jsonl")
    names = ["README.md", "data/train-0.parquet", "data/test-0.parquet", "data/train_prefs-0.parquet"]
    assert chosen(names, None) == ["data/train-0.parquet", "data/train_prefs-0.parquet"]
    assert chosen(names, "data/train_prefs-*") == ["data/train_prefs-0.parquet"]
    assert chosen(["a.jsonl", "b.csv"], None) == ["a.jsonl"]


ROWS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"text": st.text(max_size=5)}),
        st.fixed_dictionaries({"prompt": st.text(max_size=3), "completion": st.text(max_size=3)}),
        st.fixed_dictionaries({"id": st.integers(0, 3), "text": st.just("x")}),
        st.integers(),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(ROWS, st.integers(1, 5))
def test_nothing_is_dropped_silently(tmp_path_factory: Any, rows: list[Any], most: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    file = written(folder / "in.jsonl", [json.dumps(row) for row in rows])
    told = convert(folder / "out", data=[file], skip_bad=True, rows=most, rejects=folder / "rejects.jsonl")
    rejected = (folder / "rejects.jsonl").read_bytes().split(b"\n")[:-1]
    assert told["rows"] == len(rows) == told["kept"] + sum(told["left_out"].values())
    assert len(rejected) == sum(told["left_out"].values())
    assert len(read(folder / "out")) == told["kept"] <= most
