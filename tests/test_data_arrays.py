"""Files that hold an array of rows: read by the element in blocks of any size, as `json` reads them whole."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dusk.data import files
from dusk.data.convert import convert
from dusk.data.hub import chosen
from dusk.data.readers import read_rows
from dusk.errors import DataError

VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('ab"\\[]{},\n é'), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["a", 'b"', "c,"]), VALUES, max_size=3), max_size=5),
    indent=st.sampled_from([None, 2]),
    block=st.integers(1, 40),
    ascii_only=st.booleans(),
)
def test_rows_are_those_that_json_reads(
    tmp_path_factory: Any, rows: list[Any], indent: int | None, block: int, ascii_only: bool
) -> None:
    file = tmp_path_factory.mktemp("arrays") / "rows.json"
    file.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_BLOCK_BYTES", block)
        found = list(read_rows(file))
    assert [row.fields for row in found] == rows
    assert [row.line for row in found] == list(range(1, len(rows) + 1))


def test_a_bad_element_is_one_bad_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    good = '{"text": "a, [b] {c} \\" d"}'
    file.write_text(f'\ufeff[{good}, {{"text": no}}, 7,, \n{good},\n]\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(read_rows(file))
    assert [problem.partition("rows.json")[2] for problem in caught.value.problems] == [
        ":2: not JSON (Expecting value at character 10)",
        ":3: not an object (int)",
        ":4: empty line",
    ]
    counts: Counter[str] = Counter()
    assert [row.line for row in read_rows(file, skip_bad=True, skipped=counts)] == [1, 5]
    assert counts == {"not JSON": 1, "not an object": 1, "empty line": 1}
    told = convert(tmp_path / "out", data=[file], skip_bad=True)
    assert (told["rows"], told["kept"]) == (5, 2)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[{"text": "a"}, {"text": "b', "cut off: the array of rows ends within row 2"),
        ('[{"text": "a"}', "cut off: the array of rows ends within row 1"),
        ('[{"text": "a"}]\n[{"text": "b"}]', "something follows the array of rows, after row 1"),
    ],
)
def test_an_array_that_does_not_end_well(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=why):
        list(read_rows(tmp_path / "rows.json"))


@pytest.mark.parametrize("text", ['{"text": "a"}\n{"text": "b"}\n', '[{"text": "a"},\n{"text": "b"}]'])
def test_lines_or_an_array_as_it_is_or_compressed(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("rows.json", "rows.json.gz"):
        assert [row.fields["text"] for row in read_rows(tmp_path / name)] == ["a", "b"]


def test_a_set_of_arrays_becomes_rows_in_lines(tmp_path: Path) -> None:
    """MetaMathQA is published as one array."""
    rows = [{"query": f"{n}?", "response": "1", "type": "MATH_AnsAug"} for n in range(3)]
    (tmp_path / "set.json").write_text(json.dumps(rows, indent=1))
    convert(tmp_path / "out", data=[tmp_path / "set.json"], source="metamath")
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["0?", "1?", "2?"]


def test_which_json_files_of_a_hub_set_are_rows() -> None:
    assert chosen(["dataset_infos.json", "a.jsonl"], None) == ["a.jsonl"]
    assert chosen(["dataset_infos.json", "MetaMathQA-395K.json"], None) == ["MetaMathQA-395K.json"]
