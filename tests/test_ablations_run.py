"""The grids of SOLAR's Tables 3 to 7 as they are shipped, run to their end on little data, and on the page."""

import shutil
from pathlib import Path

import pytest
import yaml

from dusk.recipe import load_recipe, run
from dusk.report import report
from dusk.report.ablations import ablations_of, paper_scores
from dusk.report.evaluations import read_evaluations
from dusk.report.run_folder import read_run
from dusk.report.sweeps import sweeps_of

pytestmark = pytest.mark.soak

RECIPES = Path(__file__).parent.parent / "recipes"


def small(folder: Path) -> Path:
    """The demo's grids with the demo's data, training and items cut to what a test takes; all else as it is."""
    shutil.copytree(RECIPES, folder / "recipes")
    demo, grids = folder / "recipes/demo.yaml", folder / "recipes/ablations/demo.yaml"
    content = yaml.safe_load(demo.read_text())
    content["stages"]["docs"]["packages"] = ["networkx"]
    content["stages"]["problems"] |= {"problems": 100, "evaluation_problems": 50}
    content["stages"]["recovered"]["tokens"] = "40k"
    content["stages"]["tasks"]["rows"] = 40
    content["defaults"]["pretrain"]["eval_tokens"] = "5k"
    demo.write_text(yaml.safe_dump(content, sort_keys=False))
    content = yaml.safe_load(grids.read_text())
    content["stages"]["scores"]["limit"] = 4
    grids.write_text(yaml.safe_dump(content, sort_keys=False))
    return grids


def test_tables_3_to_7_come_out_whole(tmp_path: Path) -> None:
    run(load_recipe(small(tmp_path)), tmp_path / "run", jobs=2)
    read = read_run(tmp_path / "run")
    evaluations = read_evaluations(read)
    tables = {table.name: table for table in ablations_of(read, evaluations)}
    assert list(tables) == [f"table{number}" for number in range(3, 8)]
    for name, table in tables.items():
        assert [row.label for row in table.rows] == list(paper_scores(name))
        assert all(cell.value is not None for row in table.rows for cell in row.cells)
        assert all(row.paper for row in table.rows)  # the paper's H6 beside them
        others = [cell for row in table.rows[1:] for cell in row.cells]
        assert all(cell.noise is not None and cell.hint for cell in others)
    trained = [stage.name for stage in read.stages if stage.kind in ("sft", "align")]
    assert len(trained) == len(set(trained)) == 4 + 3 + 2  # what several tables show is trained once
    (linear, *_), *_ = (chart.lines for chart in sweeps_of(read, evaluations))
    assert [dot.x_words for dot in linear.dots] == ["0", "0.4", "0.5", "0.6", "1"]
    page = report(tmp_path / "run").read_text()
    assert all(f"Table {number} of SOLAR 10.7B" in page for number in range(3, 8))
    assert "Merge weights" in page
