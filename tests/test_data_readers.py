"""Reading and writing rows: formats, kinds, and every way a row can be bad."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dusk.data.kinds import Kind, conversation, fault, pair
from dusk.data.readers import Row, kind_of, read_rows, write_rows
from dusk.errors import DataError, WorkError

ROWS: list[dict[str, Any]] = [{"text": "one"}, {"text": "zwölf – ünïcode"}, {"text": "three\nlines"}]


def fields(path: Path, **how: Any) -> list[dict[str, Any]]:
    return [row.fields for row in read_rows(path, **how)]


def written(tmp_path: Path, *lines: str | bytes) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_survive_writing_and_reading(tmp_path: Path, name: str) -> None:
    assert write_rows(tmp_path / name, ROWS) == 3
    assert fields(tmp_path / name) == ROWS
    assert [row.line for row in read_rows(tmp_path / name)] == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_same_rows_give_the_same_gzip_bytes(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl.gz", ROWS)
    write_rows(tmp_path / "b.jsonl.gz", ROWS)
    data = (tmp_path / "a.jsonl.gz").read_bytes()
    assert data == (tmp_path / "b.jsonl.gz").read_bytes()
    assert data[3:8] == bytes(5)  # neither a name nor a time in the header (RFC 1952)


def test_reads_parquet_and_zstandard(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert fields(tmp_path / "rows.parquet") == ROWS
    with pyarrow.output_stream(str(tmp_path / "rows.jsonl.zst"), compression="zstd") as out:
        out.write("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    assert fields(tmp_path / "rows.jsonl.zst") == ROWS


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl.zst", "rows.jsonl.gz"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"no such format" * 20)
    with pytest.raises(DataError, match=name):
        list(read_rows(tmp_path / name))


def test_a_gzip_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps({"text": str(n)}) + "\n" for n in range(5000)).encode())
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[:-500])
    with pytest.raises(DataError, match=r"rows.jsonl.gz: damaged or cut off"):
        list(read_rows(tmp_path / "rows.jsonl.gz"))


@pytest.mark.parametrize(("name", "why"), [("none.jsonl", "no such file"), (".", "not a file")])
def test_a_path_without_rows(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        list(read_rows(tmp_path / name))


def test_another_format(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\na")
    with pytest.raises(DataError, match=r"\.parquet"):
        list(read_rows(tmp_path / "rows.csv"))


BAD_LINES: list[tuple[str | bytes, str]] = [
    ("", "empty line"),
    ("{'text': 1}", "not JSON"),
    ('{"text": "cut', "not JSON"),
    ("[1]", "not an object (list)"),
    ("null", "not an object (NoneType)"),
    (b'{"text": "\xe9t\xe9"}', "not UTF-8 (byte 0xe9 at 11)"),
    ('{"text": "\\ud800"}', "half of a surrogate pair"),
    ("[" * 100_000, "not JSON (nested too deeply)"),
    ('{"other": 1}', 'needs {"text"}, has other'),
    ('{"text": " "}', "text is empty"),
    ('{"text": 3}', "text is no text"),
]


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "good"}', *(line for line, _ in BAD_LINES), '{"text": "good"}')
    with pytest.raises(DataError) as caught:
        list(read_rows(path, kinds=[Kind.TEXT]))
    assert len(caught.value.problems) == len(BAD_LINES)
    for problem, (number, (_, why)) in zip(caught.value.problems, enumerate(BAD_LINES, 2), strict=True):
        assert problem.startswith(f"{path}:{number}: {why.partition(' (')[0]}")
        assert why in problem


def test_twenty_are_named_and_all_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, *["nonsense"] * 33)
    with pytest.raises(DataError, match="33 rows") as caught:
        list(read_rows(path))
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "and 13 more"
    assert caught.value.exit_code == 2


def test_no_row_behind_a_bad_one_is_handed_out(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a"}', "?", '{"text": "b"}')
    seen: list[str] = []
    with pytest.raises(DataError):
        seen.extend(row.fields["text"] for row in read_rows(path))
    assert seen == ["a"]


def test_skipped_rows_are_counted_by_reason(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a"}', "?", "", '{"text": ""}', "!", '{"text": "b"}')
    skipped: Counter[str] = Counter()
    assert fields(path, kinds=[Kind.TEXT], skip_bad=True, skipped=skipped) == [{"text": "a"}, {"text": "b"}]
    assert skipped == {"not JSON": 2, "empty line": 1, "text is empty": 1}


def test_empty_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    assert fields(written(tmp_path, '{"text": "a"}', "", " ", "")) == [{"text": "a"}]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert fields(written(tmp_path, b'\xef\xbb\xbf{"text": "a"}')) == [{"text": "a"}]


def test_utf_16_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"text": "a"}\n'.encode("utf-16"))
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert "UTF-16" in caught.value.problems[0]


USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"text": "a", "source": "x"}, Kind.TEXT),
        ({"messages": [USER, BOT]}, Kind.CHAT),
        ({"prompt": "q", "completion": "a"}, Kind.COMPLETION),
        ({"prompt": [USER], "completion": [BOT], "text": "x"}, Kind.COMPLETION),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, Kind.PREFERENCE),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "messages": []}, Kind.PREFERENCE),
    ],
)
def test_kinds_are_recognised(row: dict[str, Any], kind: Kind) -> None:
    assert kind_of([Row(Path("a"), 1, row)]) is kind
    assert fault(row, [kind]) is None


def test_no_kind_is_told_with_the_fields_found() -> None:
    with pytest.raises(DataError, match=r"a.jsonl:7: .*has instruction, output"):
        kind_of([Row(Path("a.jsonl"), 7, {"instruction": "q", "output": "a"})])
    with pytest.raises(DataError, match="no row"):
        kind_of([])


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"messages": "hello"}, "messages are no list"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [USER]}, "no answer"),
        ({"messages": [{"role": "tool", "content": "x"}, BOT]}, "role 'tool'"),
        ({"messages": [{"role": "user"}, BOT]}, "without a content"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "empty message"),
        ({"prompt": "", "completion": "a"}, "prompt is empty"),
        ({"prompt": "q", "completion": ""}, "completion is empty"),
        ({"prompt": None, "completion": "a"}, "neither text nor messages"),
        ({"prompt": [USER, BOT], "completion": "a"}, "ends with an answer"),
        ({"prompt": "q", "completion": [BOT, USER]}, "does not end with an answer"),
        ({"prompt": "q", "chosen": "a", "rejected": [BOT]}, "the same"),
        ({"prompt": "q", "chosen": "a"}, "has prompt, chosen"),
    ],
)
def test_faults_of_rows(row: dict[str, Any], why: str) -> None:
    assert why in str(fault(row, list(Kind)))


def test_strings_and_messages_come_to_the_same() -> None:
    plain = {"prompt": "q", "completion": "a"}
    assert conversation(plain) == conversation({"messages": [USER, BOT]}) == [USER, BOT]
    as_messages = {"prompt": [USER], "chosen": [USER, BOT], "rejected": "b"}
    assert pair(as_messages) == pair({"prompt": "q", "chosen": "a", "rejected": "b"}) == ([USER], "a", "b")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"text": "a"}
        raise ValueError("the source ended")

    with pytest.raises(ValueError, match="ended"):
        write_rows(tmp_path / "rows.jsonl", rows())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WorkError):
        write_rows(tmp_path / "nowhere" / "rows.jsonl", ROWS)
    with pytest.raises(DataError, match="written as"):
        write_rows(tmp_path / "rows.txt", ROWS)
