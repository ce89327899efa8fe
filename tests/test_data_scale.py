"""Data larger than memory, passes that are killed, and passes on datatrove's executors."""

import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dusk.data import passes
from dusk.data import units as units_module
from dusk.data.cluster import on_datatrove
from dusk.data.decontaminate import decontaminate
from dusk.data.deduplicate import deduplicate

SHORT = os.environ.get("DUSK_SOAK") == "short"
DATA = os.environ.get("DUSK_TEST_DATA")


def written(file: Path, count: int, words: int = 60) -> Path:
    with file.open("w") as out:
        for n in range(count):
            text = " ".join(f"w{(n * 7919 + place * 104729) % 50021}" for place in range(words))
            out.write(json.dumps({"prompt": f"{n} {text}", "completion": "yes"}) + "\n")
    return file


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    file = tmp_path / "b" / "test.jsonl"
    file.parent.mkdir()
    text = " ".join(f"w{(700 * 7919 + place * 104729) % 50021}" for place in range(60))
    file.write_text(json.dumps({"text": text}) + "\n")
    return file


def same_files(one: Path, other: Path, names: tuple[str, ...]) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.filterwarnings("ignore")
def test_datatroves_executor_gives_the_same_bytes(tmp_path: Path, tests: Path, monkeypatch: Any) -> None:
    executors = pytest.importorskip("datatrove.executor")
    monkeypatch.setattr(units_module, "UNIT_BYTES", 100_000)
    file = written(tmp_path / "rows.jsonl", 2000)
    spread = on_datatrove(executors.LocalPipelineExecutor, tasks=3, workers=2)
    made: list[int] = []
    monkeypatch.setattr(passes, "_make", lambda unit, judge, folder: made.append(unit.number))
    names = ("train.jsonl", "matches.jsonl", "README.md")
    told = decontaminate(tmp_path / "n" / "out", data=[file], against=[tests], workers=1, spread=spread)
    assert made == []  # all parts were made by datatrove's workers
    monkeypatch.undo()
    monkeypatch.setattr(units_module, "UNIT_BYTES", 100_000)
    alone = decontaminate(tmp_path / "1" / "out", data=[file], against=[tests], workers=1)
    assert told["left_out"] == alone["left_out"] == {"overlaps with a benchmark": 5}
    assert same_files(tmp_path / "n" / "out", tmp_path / "1" / "out", names)


def test_a_pass_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(units_module, "UNIT_BYTES", 100_000)
    file = written(tmp_path / "rows.jsonl", 1500)
    units = len(units_module.units([file]))
    made: list[int] = []
    make = passes._make

    def counted(unit: Any, judge: Any, folder: Path) -> None:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(unit.number)
        make(unit, judge, folder)

    monkeypatch.setattr(passes, "_make", counted)
    with pytest.raises(KeyboardInterrupt):
        deduplicate(tmp_path / "out", data=[file], workers=1)
    made[:] = [-1] * 4  # never three again
    deduplicate(tmp_path / "out", data=[file], workers=1)
    assert made[4:] == list(range(3, units))
    monkeypatch.undo()
    deduplicate(tmp_path / "whole", data=[file], workers=1)
    assert same_files(tmp_path / "out", tmp_path / "whole", ("train.jsonl",))


LIMITED = """
import resource, sys
from pathlib import Path
from dusk.data.{module} import {name}
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
told = {name}({out!r}, data=[{file!r}], workers=1, {more})
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]  # ru_maxrss begins with the parent's
print(told["rows"], told["kept"], int(peak) // 1024)
"""


def documents() -> bytes:
    """Rows of text to be repeated: real documents where there are some, about 12 MB, else words by number."""
    if DATA and not SHORT:
        names = ("text_wikipedia", "text_c4", "text_openstax")
        files = [Path(DATA) / name / "train.jsonl.gz" for name in names]
        lines = (line for file in files for line in gzip.decompress(file.read_bytes()).splitlines())
        texts = (json.loads(line)["text"] for line in lines)
    else:
        texts = (
            " ".join(f"w{(n * 7919 + place * 104729) % 50021}" for place in range(400)) for n in range(4000)
        )
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def benchmarks(made: Path) -> list[str]:
    """The sets of H6 where they are at hand, and one that was made."""
    if not DATA:
        return [str(made)]
    sets = ("arc_challenge/test", "hellaswag/validation", "mmlu/test", "truthfulqa/multiple_choice")
    more = ("winogrande/validation", "gsm8k/test")
    return [str(made), *(str(Path(DATA) / f"{name}.jsonl.gz") for name in (*sets, *more))]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("module", "name", "more"),
    [
        ("decontaminate", "decontaminate", "against={tests!r}"),
        ("deduplicate", "deduplicate", ""),
        ("convert", "convert", ""),
    ],
)
def test_a_corpus_larger_than_the_limit_of_memory(
    tmp_path: Path, tests: Path, module: str, name: str, more: str
) -> None:
    """One GB of address space for the process, 3.5 GB of rows (in short, 0.4 and 0.6: numpy maps 0.3)."""
    if SHORT and name != "decontaminate":
        pytest.skip("one of three in the short form")
    size, limit = (600_000_000, 400_000_000) if SHORT else (3_500_000_000, 1_000_000_000)
    block = documents()
    with (tmp_path / "rows.jsonl").open("wb") as out:
        rows = 0
        while out.tell() < size:
            out.write(block.replace(b'{"text": "', b'{"text": "%d ' % rows))
            rows += block.count(b"\n")
    code = LIMITED.format(
        module=module,
        name=name,
        limit=limit,
        out=str(tmp_path / "out"),
        file=str(tmp_path / "rows.jsonl"),
        more=more.format(tests=benchmarks(tests)),
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counted, kept, peak_mib = map(int, done.stdout.split())
    assert counted == rows
    assert 0 < kept <= rows
    assert peak_mib * 2**20 < limit < size
    print(f"{name}: {size / 1e9:g} GB, {rows:,} rows, {kept:,} kept, peak {peak_mib} MiB")


def test_the_limit_is_real() -> None:
    """The same process without streaming would not fit: the limit stops it."""
    code = (
        f"import resource\nresource.setrlimit(resource.RLIMIT_AS, ({10**9}, {10**9}))\nbytearray(2 * 10**9)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != 10**9
