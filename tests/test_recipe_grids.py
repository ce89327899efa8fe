import shutil
from pathlib import Path

import pytest
import yaml

import fake_stages
from dusk.errors import RecipeError
from dusk.recipe import KINDS, load_recipe, parse_recipe, run
from dusk.recipe.fingerprint import fingerprints

ROOT = Path(__file__).parent.parent
ABLATIONS = ROOT / "recipes" / "ablations"
TABLES = [f"table{number}" for number in range(3, 8)]


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for name, kind in fake_stages.FAKES.items():
        monkeypatch.setitem(KINDS, name, kind)


GRID = {
    "kind": "grow",
    "title": "Data",
    "model": "base",
    "lines": 2,
    "axes": {"data": {"A": "a/text.txt", "B": "b/text.txt"}},
    "rows": {"one": {"data": ["A"], "label": "Only A"}, "two": {"data": ["A", "B"]}},
}
STAGES = {
    "base": {"kind": "source", "text": "hello"},
    "a": {"kind": "source", "text": "a"},
    "b": {"kind": "source", "text": "b"},
    "grid": GRID,
    "scores": {"kind": "score", "models": ["base", "grid"]},
}


def problems(stages, **more):
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"name": "test", "stages": stages, **more})
    return caught.value.problems


def test_a_row_is_an_ordinary_stage():
    by_hand = {key: value for key, value in STAGES.items() if key not in ("grid", "scores")} | {
        "one": {"kind": "grow", "model": "base", "lines": 2, "data": ["a/text.txt"]},
        "two": {"kind": "grow", "model": "base", "lines": 2, "data": ["a/text.txt", "b/text.txt"]},
        "scores": {"kind": "score", "models": ["base", "one", "two"]},
    }
    grid, plain = (parse_recipe({"name": "test", "stages": stages}) for stages in (STAGES, by_hand))
    assert fingerprints(grid) == fingerprints(plain)
    assert list(grid.stages) == list(plain.stages)
    table = grid.tables["grid"]
    assert (table.title, table.columns) == ("Data", ["A", "B"])
    assert table.rows == {"one": {"A": True, "B": False}, "two": {"A": True, "B": True}}


def test_the_resolved_recipe_is_the_same_recipe():
    read = parse_recipe({"name": "test", "stages": STAGES})
    again = parse_recipe(yaml.safe_load(read.to_yaml()))
    assert again == read


def test_without_rows_there_is_one_for_each_combination():
    grid = {**GRID, "axes": {**GRID["axes"], "learning_rate": [0.1, 0.2]}}
    del grid["rows"]
    read = parse_recipe({"name": "test", "stages": {**STAGES, "grid": grid}})
    made = {name: stage for name, stage in read.stages.items() if stage.kind == "grow"}
    assert len(made) == 3 * 2
    both = made["grid_A-B_0-2"]
    assert (both.data, both.learning_rate, both.label) == (["a/text.txt", "b/text.txt"], 0.2, "A + B, 0.2")
    assert read.tables["grid"].columns == ["A", "B", "Learning rate"]
    assert read.tables["grid"].rows["grid_B_0-1"] == {"A": False, "B": True, "Learning rate": "0.1"}


def test_a_merge_shows_what_it_merges():
    rows = {
        "v3": {"data": ["A"]},
        "v4": {"data": ["B"]},
        "v3_v4": {"kind": "merge", "models": ["v3", "v4"]},
    }
    read = parse_recipe({"name": "test", "stages": {**STAGES, "grid": {**GRID, "rows": rows}}})
    assert read.tables["grid"].rows["v3_v4"] == {"A": True, "B": True}
    assert read.stages["v3_v4"].given() == {"models": ["v3", "v4"]}


def test_rows_that_grids_have_alike_are_one_stage():
    other = {**GRID, "rows": {"two": {"data": ["A", "B"]}}}
    stages = {**STAGES, "other": other}
    assert list(parse_recipe({"name": "test", "stages": stages}).tables["other"].rows) == ["two"]
    other["lines"] = 3
    assert problems(stages) == ["stage 'two' stands twice, with different settings"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": {"one": {"data": ["C"]}}}, "grid 'grid': row 'one': data has no value 'C' (known: A, B)"),
        (
            {"axes": {"dat": ["a"]}, "rows": None},
            "grid 'grid': axes: grow has no setting 'dat'; did you mean",
        ),
        ({"axes": {}}, "grid 'grid': `axes` maps settings to their values"),
        ({"axes": {"data": 3}}, "grid 'grid': axes: data: its values are a list, or a mapping"),
        ({"rows": []}, "grid 'grid': `rows` maps the name of a stage to its value of each axis"),
        ({"rows": {"o ne": {"data": ["A"]}}}, "grid 'grid': row 'o ne': the name of a stage has letters"),
        ({"paper": "table9"}, "tables.grid.paper: input should be 'table3'"),
        ({"kind": "grw"}, "stage 'one': unknown kind 'grw'; did you mean 'grow'?"),
    ],
)
def test_what_is_wrong_with_a_grid_is_told(change, told):
    found = problems({**STAGES, "grid": {**GRID, **change}})
    assert any(problem.startswith(told) for problem in found), found


def test_a_table_names_stages():
    table = {"rows": {"on": {}}}
    assert problems(STAGES, tables={"mine": table}) == [
        "table 'mine': row 'on' names no stage; did you mean 'one'?"
    ]


def test_stages_are_taken_from_another_recipe_as_it_has_them(tmp_path):
    """With its defaults and its paths, so that they are the same stages; what is not used is left."""
    (tmp_path / "below").mkdir()
    (tmp_path / "rows.txt").write_text("rows\n")
    first = {
        "name": "first",
        "seed": 3,
        "defaults": {"grow": {"lines": 7}},
        "stages": {
            **STAGES,
            "two": {"kind": "grow", "model": "base", "data": ["rows.txt"]},
            "unused": {"kind": "source"},
        },
    }
    del first["stages"]["grid"], first["stages"]["scores"]
    second = {
        "name": "second",
        "stages_from": "../first.yaml",
        "defaults": {"grow": {"lines": 5}},
        "stages": {"three": {"kind": "grow", "model": "two"}},
    }
    for path, content in ((tmp_path / "first.yaml", first), (tmp_path / "below" / "second.yaml", second)):
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    one, two = load_recipe(tmp_path / "first.yaml"), load_recipe(tmp_path / "below" / "second.yaml")
    assert list(two.stages) == ["base", "two", "three"]
    assert two.stages["two"] == one.stages["two"]
    assert (two.seed, two.stages["two"].lines, two.stages["three"].lines) == (3, 7, 5)
    shared = fingerprints(one)
    assert {name: shared[name] for name in ("base", "two")}.items() <= fingerprints(two).items()


def test_recipes_that_take_from_each_other_are_refused(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        content = {"name": name, "stages_from": f"{other}.yaml", "stages": {"base": STAGES["base"]}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match="leads back to it"):
        load_recipe(tmp_path / "a.yaml")


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: No such file"):
        parse_recipe({"name": "x", "stages_from": "none.yaml", "stages": STAGES}, folder=tmp_path)


@pytest.fixture
def solar(tmp_path):
    """The recipes with empty files in the place of the data, which no recipe brings."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    data = tmp_path / "recipes" / "data"
    data.mkdir()
    names = ["pretrain", "heldout", "alpaca_gpt4", "openorca_100k", "math_instruct"]
    for name in (*names, "orca_dpo_pairs", "ultrafeedback_cleaned", "math_alignment"):
        (data / f"{name}.jsonl").touch()
    return tmp_path / "recipes"


def test_the_tables_of_solar_share_their_stages(solar):
    """Tables 3 to 7 alone, all in one run, and the recipe of the model itself: the same stages everywhere."""
    alone = {name: load_recipe(solar / "ablations" / f"{name}.yaml") for name in TABLES}
    together = load_recipe(solar / "ablations" / "all.yaml")
    assert list(together.tables) == TABLES
    known = fingerprints(together)
    whole = load_recipe(solar / "solar-10.7b.yaml")
    for recipe in (*alone.values(), whole):
        own = fingerprints(recipe)
        assert {
            name: own[name] for name in own if name in known and name != "scores"
        }.items() <= known.items()
    assert {"sft_v3", "sft_v4", "candidate_1", "merge_v4"} <= known.keys() & fingerprints(whole).keys()
    trained = [stage for stage in together.stages.values() if stage.kind in ("sft", "align")]
    assert len(trained) == 4 + 3 + 2  # what several tables show is trained once


@pytest.mark.parametrize("name", ["demo", "all"])
def test_the_rows_are_those_of_the_paper(solar, name):
    from dusk.report.ablations import paper_scores

    read = load_recipe(solar / "ablations" / f"{name}.yaml")
    for table in TABLES:
        labels = [read.stages[row].label for row in read.tables[table].rows]
        assert labels == list(paper_scores(table))
        assert set(read.tables[table].rows) <= set(read.stages["scores"].models)


def test_the_demos_grid_is_that_of_the_paper(solar):
    """Which data are on is the same in both; what is merged, how and from what, too."""
    demo, whole = (load_recipe(solar / "ablations" / f"{name}.yaml") for name in ("demo", "all"))
    for table in TABLES:
        left, right = (read.tables[table].rows for read in (demo, whole))
        assert [list(row.values()) for row in left.values()] == [list(row.values()) for row in right.values()]
    for name, stage in whole.stages.items():
        if stage.kind == "merge":
            assert demo.stages[name].given() == stage.given()


def test_a_grid_runs_and_its_table_stands_in_the_run(tmp_path):
    import json

    read = parse_recipe({"name": "test", "stages": STAGES})
    report = run(read, tmp_path / "out", jobs=2)
    assert (tmp_path / "out/two/text.txt").read_text().startswith("hello")
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert told["tables"]["grid"]["rows"]["two"] == {"A": True, "B": True}
    assert report.tables == told["tables"]
