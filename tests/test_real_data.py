"""Real public sets: every file reads, and a known contamination is found. Skipped where the sets are absent."""

import os
from collections import Counter
from pathlib import Path

import pytest

from dusk.data.decontaminate import decontaminate
from dusk.data.encode import TextTokenizer
from dusk.data.overlap import overlapping
from dusk.data.readers import read_rows, write_rows
from dusk.data.stores import chat_store, pair_store, text_store
from dusk.data.task_filter import filter_tasks
from dusk.data.templates import ALPACA, SOLAR

FOLDER = Path(os.environ.get("DUSK_TEST_DATA", "absent"))
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="DUSK_TEST_DATA names no folder of data sets")


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    import dusk

    tokenizers = pytest.importorskip("tokenizers")
    file = Path(dusk.__file__).parent / "base" / "constant" / "tokenizer.json"
    loaded = tokenizers.Tokenizer.from_file(str(file))
    return TextTokenizer(loaded, eos=loaded.token_to_id("</s>"))


def test_every_file_reads() -> None:
    files = sorted(FOLDER.rglob("*.jsonl.gz"))
    rows = {file: sum(1 for _ in read_rows(file)) for file in files}
    assert len(files) == 36
    assert rows[FOLDER / "gsm8k" / "train.jsonl.gz"] == 7473
    assert rows[FOLDER / "preference" / "ultrafeedback.jsonl.gz"] == 874
    assert min(rows.values()) > 0


def test_gsm8k_questions_in_a_training_set_are_found() -> None:
    """All of the rows known to be in GSM8K's test set, and none of those known not to be."""
    folder = FOLDER / "math_word_problems"
    tested = [row.fields["question"] for row in read_rows(FOLDER / "gsm8k" / "test.jsonl.gz")]
    planted = [row.fields["instruction"] for row in read_rows(folder / "overlaps_gsm8k_test.jsonl.gz")]
    clean = [row.fields["instruction"] for row in read_rows(folder / "train.jsonl.gz")]
    long_enough = [text for text in planted if len(text.split()) >= 20]
    assert all(overlapping(long_enough, tested, words=10))
    assert not any(overlapping(clean, tested, words=10))


def test_text_loses_nothing(tokenizer: TextTokenizer) -> None:
    file = FOLDER / "text_shakespeare" / "train.jsonl.gz"
    store, counts = text_store([file], tokenizer, sequence_length=256)
    texts = [row.fields["text"] for row in read_rows(file)]
    assert counts.rows == len(texts)
    assert int(store.text_bytes.sum()) == sum(len(text.encode()) for text in texts)
    # each document predicts all of its tokens but BOS, whatever it was cut into
    whole = sum(len(ids) + 1 for ids in tokenizer.encode(texts))
    first = store.offsets[:-1]
    assert int(store.trained.sum()) - int(store.trained[first].sum()) == whole


def test_instructions_and_preferences_are_counted(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    alpaca = [
        {
            "prompt": f"{row.fields['instruction']}\n{row.fields['input']}".strip(),
            "completion": row.fields["output"],
        }
        for row in read_rows(FOLDER / "alpaca_gpt4_sample" / "train.jsonl.gz")
    ]
    write_rows(tmp_path / "alpaca.jsonl", alpaca)
    _, counts = chat_store([tmp_path / "alpaca.jsonl"], tokenizer, ALPACA, sequence_length=256)
    assert counts.rows == 999
    assert counts.documents + sum(counts.left_out.values()) == 999
    pairs, counts = pair_store(
        [FOLDER / "preference" / "politeness_pairs.jsonl.gz"], tokenizer, SOLAR, sequence_length=256
    )
    assert (counts.rows, pairs.units, Counter(counts.left_out)) == (820, 820, Counter())


def h6() -> list[Path]:
    names = (
        "arc_challenge/test",
        "hellaswag/validation",
        "mmlu/test",
        "truthfulqa/multiple_choice",
        "winogrande/validation",
        "gsm8k/test",
    )
    return [FOLDER / f"{name}.jsonl.gz" for name in names]


@pytest.mark.parametrize("preset", ["gpt3", "tulu3"])
def test_a_published_contamination_is_found_and_nothing_beside_it(tmp_path: Path, preset: str) -> None:
    """788 rows hold questions of GSM8K's test set; the file beside them holds none. Two have no answer."""
    folder = FOLDER / "math_word_problems"
    planted = decontaminate(
        tmp_path / "a",
        data=[folder / "overlaps_gsm8k_test.jsonl.gz"],
        against=h6(),
        preset=preset,
        skip_bad=True,
    )
    assert planted["left_out"] == {"overlaps with a benchmark": 786, "output is empty": 2}
    clean = decontaminate(tmp_path / "b", data=[folder / "train.jsonl.gz"], against=h6(), preset=preset)
    assert (clean["kept"], clean["left_out"]) == (2120, {})


def test_tasks_of_benchmarks_are_left_out_by_name_and_by_join(tmp_path: Path) -> None:
    flan = FOLDER / "flan_style" / "train.jsonl.gz"
    told = filter_tasks(tmp_path / "named", data=[flan])
    assert (told["rows"], told["kept"], told["decided"]) == (13119, 7500, {"by the row's field": 13119})
    rows = [row.fields for row in read_rows(flan)]
    nameless = (
        {k: v for k, v in row.items() if k != "task"} | {"id": f"flan.{n}"} for n, row in enumerate(rows)
    )
    write_rows(tmp_path / "nameless.jsonl", nameless)
    joined = filter_tasks(tmp_path / "joined", data=[tmp_path / "nameless.jsonl"], flan=[flan])
    left = [row.fields["source"] for row in read_rows(tmp_path / "joined" / "train.jsonl")]
    assert joined["undecided"] == {}
    assert not any(name in source for source in left for name in ("arc_", "winogrande", "gsm8k"))
    assert abs(joined["kept"] - 7500) <= 5  # questions that stand in two tasks
