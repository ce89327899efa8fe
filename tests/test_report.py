"""The report's page: costs, reproduction, what is missing, bad run folders, and numbers in words."""

import html
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dusk.errors import DataError, InputError, OutputError
from dusk.report import report
from dusk.report.wording import bits, count, duration, flops, memory
from report_runs import FakeStage, page, sentence, whole_run, write_run, write_scored_run

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(write_scored_run, tmp_path / "run")


class TestPage:
    def test_costs(self, write: Write) -> None:
        text = page(write(whole_run()))
        assert ">25k<" in text  # tokens a second
        assert ">504 MiB<" in text  # of the fifth stage, recovered
        assert "took 3 min 32 s" in text

    def test_reproduction(self, write: Write) -> None:
        machine = {
            "processor": "Xeon 3",
            "cores": 2,
            "memory_bytes": 2**33,
            "platform": "Linux-6",
            "python": "3.11.7",
        }
        facts = {
            "command": "dusk run demo.yaml --out run",
            "started": "2025-01-02T03:04:05+00:00",
            "machine": machine,
        }
        text = page(write(whole_run(), **facts))
        for name, value in (("Processor", "Xeon 3"), ("Memory", "8 GiB"), ("Started", facts["started"])):
            assert f"<dt>{name}</dt><dd>{value}</dd>" in text
        assert "dusk run demo.yaml --out run" in text
        assert "8 GiB" in text
        assert "2.13.0" in text
        assert "name: small" in text

    def test_out(self, write: Write, tmp_path: Path) -> None:
        folder = write(whole_run())
        assert report(folder) == folder / "report.html"
        assert report(str(folder), out=tmp_path / "other" / "page.html").is_file()

    def test_the_same_run_gives_the_same_page(self, write: Write) -> None:
        folder = write(whole_run())
        assert page(folder) == page(folder)

    def test_self_contained(self, write: Write) -> None:
        text = page(write(whole_run()))
        assert not re.findall(r"""(?:src|href)\s*=\s*(?!["']?(?:data:|#))""", text)
        assert "http" not in text.replace("http-equiv", "")
        assert "@import" not in text
        assert "url(" not in text

    def test_hostile_names_are_text(self, write: Write) -> None:
        evil = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
        stages = whole_run()
        stages[4].settings["label"] = evil
        stages[3].settings["label"] = f"scaled {evil}"
        folder = write(stages, name=evil)
        (folder / "recipe.yaml").write_text(f"name: {evil}\n")
        text = page(folder)
        assert evil not in text
        assert "<img" not in text
        assert text.count("<script") == 1
        assert html.escape(evil)[:20] in text

    def test_unfinished_run(self, write: Write) -> None:
        stages = whole_run()
        for stage in stages[5:]:
            stage.status = "waiting"
        stages[5].status = "failed"
        folder = write(stages, scores=False)
        text = page(folder)
        assert "The run is not finished; there is no output of base_same_tokens (failed)" in text
        assert "No model was evaluated, so there is no table of scores." in text

    def test_a_base_that_no_stage_made(self, tmp_path: Path) -> None:
        scaled = FakeStage("scaled", "scale", {"base": "org/model-7B"})
        text = page(write_run(tmp_path / "run", [scaled]))
        assert "model-7B: base" in text
        assert "scaled: scaled from model-7B" in text

    def test_no_stages(self, tmp_path: Path) -> None:
        assert "The run makes no models." in page(write_run(tmp_path / "run", []))


class TestBadRuns:
    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is not a folder"):
            report(tmp_path / "nothing")

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no run\.json"):
            report(tmp_path)

    @pytest.mark.parametrize("content", ["{", "[]", '{"stages": 3}', '{"stages": [{}]}'])
    def test_damaged_run(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(DataError, match=r"run\.json"):
            report(tmp_path)

    def test_damaged_metrics_name_the_line(self, write: Write) -> None:
        folder = write(whole_run())
        path = folder / "recovered" / "metrics.jsonl"
        path.write_text('{"kind": "train", "step": 1}\nnonsense\n{"kind": "train", "step": 2}\n')
        with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
            report(folder)

    def test_a_last_line_cut_short_is_left_out(self, write: Write) -> None:
        folder = write(whole_run())
        with (folder / "recovered" / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "train", "st')
        assert "after 600k tokens" in sentence(folder)

    def test_numbers_that_are_none(self, write: Write) -> None:
        folder = write(whole_run())
        with (folder / "recovered" / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "train", "step": 41, "tokens": 1600000, "loss": NaN, "lr": Infinity}\n')
        assert "nan" not in page(folder).lower().replace("instruction", "")

    def test_a_folder_that_cannot_be_written(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot be written"):
            report(write(whole_run()), out=tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (count(0), "0"), (count(999), "999"), (count(1234), "1.23k"), (count(999_960), "1M"), (count(None), ""),
        (count(2_080_000), "2.08M"), (count(10.7e9), "10.7B"), (duration(4.24), "4.2 s"), (memory(512), "512 B"),
        (duration(59.6), "1 min 00 s"), (duration(7384), "2 h 03 min"), (memory(3 * 2**29), "1.5 GiB"),
        (bits(-0.0204), "\u22120.020"), (bits(-0.0001), "0.000"), (flops(7.05e12), "7\u00d710\u00b9\u00b2"),
        (flops(0), "0"),
    ],
)  # fmt: skip
def test_wording(words: str, expected: str) -> None:
    assert words == expected
