"""Several grown arms over seeds: found in the graph of stages, held against each other seed by seed, and shown."""

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from dusk.report import report
from dusk.report.arms import find_arms
from dusk.report.run_folder import read_run
from dusk.report.seeds import read_seeds, seed_folders
from dusk.report.seeds.arms_table import arms_table
from dusk.report.seeds.plots import recovery_charts
from report_runs import SEED_OFFSETS, arms_stages, write_run, write_seeds

T = 4.302653  # 95 %, two degrees of freedom


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms") / "out"
    for seed, offset in enumerate(SEED_OFFSETS):
        write_run(folder / f"seed-{seed}", arms_stages(offset), name="growth", seed=seed)
    report(folder)
    return folder


@pytest.fixture(scope="module")
def told(study: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((study / "summary.json").read_text())["arms"]
    return content


def test_which_stage_is_which(study: Path) -> None:
    arms = find_arms(read_run(study / "seed-0"))
    assert arms.recovery is not None
    assert arms.recovery.final.name == "recovered"
    assert [arm.final.name for arm in arms.controls] == ["base_same_tokens", "base_same_compute"]
    assert [arm.final.name for arm in arms.grown] == ["faster", "new_only"]
    assert [arm.final.name for arm in arms.from_scratch] == ["scratch"]


def test_tokens_to_recover(told: dict[str, Any]) -> None:
    # the base is at 2.4: a line from 2.42 to 2.395, 2.385, 2.375 at 400k meets it at these
    faster = {"0": 400_000 * 0.02 / 0.025, "1": 400_000 * 0.02 / 0.035, "2": 400_000 * 0.02 / 0.045}
    assert told["faster"]["recovered_after_tokens"]["by_seed"] == pytest.approx(faster)
    sooner = {"0": 650_000 - faster["0"], "1": 600_000 - faster["1"], "2": 550_000 - faster["2"]}
    assert told["faster"]["sooner_tokens"]["by_seed"] == pytest.approx(sooner)
    assert told["recovered"]["sooner_tokens"] is None
    assert told["new_only"]["recovered_after_tokens"] is None
    assert told["new_only"]["sooner_tokens"] is None
    assert told["base_same_tokens"]["recovered_after_tokens"] is None


def test_differences_are_taken_within_a_seed(told: dict[str, Any]) -> None:
    saved = told["faster"]["bits_per_byte_saved"]
    assert list(saved) == ["recovered", "base_same_tokens", "base_same_compute", "scratch"]
    # 2.3 + o less 2.29 + 2 o, with o = 0.005, 0, -0.005
    assert saved["recovered"]["by_seed"] == pytest.approx({"0": 0.005, "1": 0.01, "2": 0.015})
    assert saved["recovered"]["high"] == pytest.approx(0.01 + T * 0.005 / math.sqrt(3))
    assert saved["base_same_tokens"]["by_seed"] == pytest.approx({"0": 0.02, "1": 0.03, "2": 0.04})
    assert told["scratch"]["bits_per_byte_saved"]["recovered"]["by_seed"] == pytest.approx(
        {"0": -1.0, "1": -1.0, "2": -1.0}
    )
    assert told["faster"]["final_bits_per_byte"]["deviation"] == pytest.approx(0.01)
    assert told["faster"]["flops"] == pytest.approx(6 * 724_000 * 1_600_000)


def test_what_is_saved_along_the_way(study: Path, told: dict[str, Any]) -> None:
    # the base given the same tokens: 2.4, 2.38, 2.36, 2.345, 2.32; the other arm has no third place in common
    faster = told["faster"]["saved_along_the_way"]
    assert [at["tokens"] for at in faster] == [0, 400_000]
    assert faster[0]["by_seed"] == pytest.approx({"0": -0.02, "1": -0.02, "2": -0.02})
    assert faster[1]["by_seed"] == pytest.approx({"0": -0.015, "1": -0.005, "2": 0.005})
    recovered = told["recovered"]["saved_along_the_way"]
    assert [at["mean"] for at in recovered] == pytest.approx([-0.1, -0.04, -0.02, 0.005, 0.02])
    assert told["base_same_compute"]["saved_along_the_way"] == []
    table = arms_table(read_seeds(seed_folders(study)))
    assert table is not None
    assert table.places == ("0", "400k", "800k", "1.2M", "1.6M")
    cells = dict(table.along)["faster"]
    assert (cells[1].text, cells[1].noise) == ("\u22120.0050", True)
    assert cells[2].text == ""


def test_the_table(study: Path) -> None:
    table = arms_table(read_seeds(seed_folders(study)))
    assert table is not None
    assert table.columns == (
        "Passed its base after",
        "Sooner than recovered",
        "Bits per byte at the end",
        "Saved against recovered",
        "Saved against base, same tokens (base_same_tokens)",
        "Saved against base, same compute (base_same_compute)",
        "Saved against scratch",
    )
    rows = {row.label: row for row in table.rows}
    faster = [(cell.text, cell.under, cell.noise) for cell in rows["faster"].cells]
    assert faster[0] == ("242k", "63.1k to 421k", False)
    assert faster[2] == ("2.2900", "± 0.0100", False)
    assert faster[3] == ("+0.0100", "\u22120.0024 to +0.0224", True)  # ± 0.0124 holds zero
    assert faster[4] == ("+0.0300", "+0.0052 to +0.0548", False)
    assert [cell.text for cell in rows["new_only"].cells[:2]] == ["not within", ""]
    assert rows["recovered"].cells[3].text == ""
    assert [cell.text for cell in rows["scratch"].cells[2:4]] == ["3.3000", "\u22121.0000"]


def test_the_page(study: Path) -> None:
    text = html.unescape((study / "report.html").read_text())
    section = re.search(r'<h2 id="arms">.*?</section>', text, re.DOTALL)
    assert section
    tables = re.findall(r"<table.*?</table>", section[0], re.DOTALL)
    assert [table.count("<tr>") for table in tables] == [7, 4]  # heads, six arms, three grown ones
    assert (
        '<td class="number noise"><span class="same" aria-label="no difference:">≈</span>+0.0100'
        in section[0]
    )


def test_curves_of_all_grown_arms_but_not_from_scratch(study: Path) -> None:
    chart = recovery_charts(read_seeds(seed_folders(study)))[0]
    thick = [line.label for line in chart.lines if not line.faint]
    assert thick[0] == "recovered"
    assert thick[-2:] == ["faster", "new_only"]
    assert not any("faster" in line.label for line in chart.lines if line.faint)


def test_one_grown_arm_has_no_table(tmp_path: Path) -> None:
    folder = write_seeds(tmp_path / "out", scores=False)
    report(folder)
    assert arms_table(read_seeds(seed_folders(folder))) is None
    assert 'id="arms"' not in (folder / "report.html").read_text()


def test_an_arm_that_one_seed_did_not_finish(tmp_path: Path) -> None:
    for seed, offset in enumerate(SEED_OFFSETS):
        stages = arms_stages(offset)
        if seed == 2:
            stages[-3].status = "running"
        write_run(tmp_path / f"seed-{seed}", stages, name="growth", seed=seed)
    report(tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text())["arms"]["faster"]
    assert list(found["recovered_after_tokens"]["by_seed"]) == ["0", "1"]
    assert found["bits_per_byte_saved"]["recovered"]["n"] == 2
    table = arms_table(read_seeds(seed_folders(tmp_path)))
    assert table is not None
    assert next(row for row in table.rows if row.label == "faster").cells[0].under.startswith("in 2 of 3; ")
