import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import fake_stages
from dusk.cli.main import dusk
from dusk.errors import RecipeError
from dusk.recipe import KINDS, demo_recipe, load_recipe, parse_recipe
from dusk.recipe.fingerprint import fingerprints
from dusk.recipe.recipe import derived_seed
from dusk.recipe.settings import parse_count


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    for name, kind in fake_stages.FAKES.items():
        monkeypatch.setitem(KINDS, name, kind)


def recipe(stages, **more):
    return parse_recipe({"name": "test", "stages": stages, **more}, source="test.yaml")


def problems(stages, **more):
    with pytest.raises(RecipeError) as caught:
        recipe(stages, **more)
    assert caught.value.exit_code == 2
    return caught.value.problems


BASE = {"kind": "source", "text": "hello"}


def test_a_stage_says_only_what_differs_from_the_defaults():
    read = recipe(
        {
            "base": BASE,
            "a": {"kind": "grow", "model": "base"},
            "b": {"kind": "grow", "model": "a", "lines": 9},
        },
        defaults={"grow": {"lines": 7, "learning_rate": "1e-3"}},
    )
    assert read.stages["a"].given() == {"lines": 7, "learning_rate": 0.001, "model": "base"}
    assert read.stages["b"].given()["lines"] == 9
    assert read.uses("b") == ("a",)


def test_seeds_come_from_the_recipes_seed_and_the_kind():
    read = recipe({"a": BASE, "b": BASE, "c": {**BASE, "seed": 5}}, seed=11)
    assert read.stages["a"].seed == read.stages["b"].seed == derived_seed(11, "source")
    assert read.stages["c"].seed == 5
    assert recipe({"a": BASE}, seed=12).stages["a"].seed != read.stages["a"].seed


def test_of_the_merges_dare_alone_draws():
    models = {"kind": "merge", "models": ["a", "b"], "base_model": "c"}
    stages = {
        "a": BASE,
        "b": BASE,
        "c": BASE,
        "linear": {"kind": "merge", "models": ["a", "b"]},
        "ties": {**models, "method": "ties", "density": 0.3},
        "dare": {**models, "method": "dare", "weights": [1, 1]},
        "own": {**models, "method": "dare", "weights": [1, 1], "seed": 5},
    }
    read = recipe(stages, seed=11).stages
    assert "seed" not in read["linear"].given().keys() | read["ties"].given().keys()
    assert read["dare"].seed == derived_seed(11, "merge")
    assert read["own"].seed == 5


def test_an_unknown_key_names_the_stage_and_the_nearest_key():
    (told,) = problems({"base": BASE, "a": {"kind": "grow", "model": "base", "lerning_rate": 1}})
    assert told == "stage 'a': unknown key 'lerning_rate'; did you mean 'learning_rate'?"


def test_the_file_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nstages:\n  a: {kind: source, txt: b}\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml: 1 problem"):
        load_recipe(path)


def test_unknown_top_keys_and_kinds_and_defaults():
    assert problems({"base": BASE}, sed=1) == ["unknown key 'sed'; did you mean 'seed'?"]
    assert "did you mean 'source'?" in problems({"base": {"kind": "sorce"}})[0]
    assert "did you mean 'grow'?" in problems({"base": BASE}, defaults={"growth": {}})[0]
    assert "did you mean 'lines'?" in problems({"base": BASE}, defaults={"grow": {"lins": 1}})[0]
    assert problems({"base": {"text": "x"}})[0].startswith("stage 'base': `kind` is missing")


def test_a_stage_that_names_no_earlier_stage_lists_the_existing_ones():
    (told,) = problems({"base": BASE, "docs": BASE, "a": {"kind": "grow", "model": "bose"}})
    assert told == (
        "stage 'a': model: 'bose' names no earlier stage; did you mean 'base'?;"
        " the earlier stages are base, docs"
    )


def test_a_stage_cannot_use_itself_or_a_later_one():
    cycle = {"a": {"kind": "grow", "model": "b"}, "b": {"kind": "grow", "model": "a"}}
    assert problems(cycle) == [
        "stage 'a': model: 'b' names a stage that does not come earlier; it is the first stage"
    ]
    assert "does not come earlier" in problems({"a": {"kind": "grow", "model": "a"}})[0]


def test_a_model_is_a_stage_and_not_a_file():
    assert "named by its stage alone" in problems({"base": BASE, "a": {"kind": "grow", "model": "base/x"}})[0]


def test_files_are_of_a_stage_or_of_the_recipes_folder(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    stages = {"base": BASE, "a": {"kind": "grow", "model": "base", "data": ["base/text.txt", "rows.jsonl"]}}
    read = parse_recipe({"name": "x", "stages": stages}, folder=tmp_path)
    assert read.stages["a"].data == ["base/text.txt", str(tmp_path / "rows.jsonl")]
    stages["a"]["data"] = ["bsae/text.txt"]
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"name": "x", "stages": stages}, folder=tmp_path)
    assert "names neither an earlier stage nor a file; did you mean 'base'?" in caught.value.problems[0]


def test_all_problems_at_once():
    found = problems(
        {
            "base": {"kind": "source", "txt": 1},
            "a": {"kind": "grow", "model": "nothing", "lines": 0, "learning_rate": ".nan"},
            "b": {"kind": "grow", "model": "nobody"},
            "c": {"kind": "grow"},
        },
        seed=-1,
        extra=2,
    )
    text = "\n".join(found)
    for part in (
        "seed: ",
        "'extra'",
        "'txt'",
        "lines: ",
        "learning_rate: ",
        "'nothing'",
        "'nobody'",
        "`model` is missing",
    ):
        assert part in text


@pytest.mark.parametrize("name", ["state", "../x", "a b", "run.json", ""])
def test_names_that_no_folder_of_a_run_can_have(name):
    assert problems({name: BASE})


@pytest.mark.parametrize("content", [None, [], "text", {"name": "x"}, {"name": "x", "stages": []}])
def test_what_is_no_recipe(content):
    with pytest.raises(RecipeError):
        parse_recipe(content)


def test_a_key_that_stands_twice(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: x\nstages:\n  a: {kind: source}\n  a: {kind: source}\n")
    with pytest.raises(RecipeError, match="line 4: the key 'a' stands twice"):
        load_recipe(path)


def test_what_is_no_yaml_or_no_file(tmp_path):
    (tmp_path / "bad.yaml").write_text("name: [\n")
    with pytest.raises(RecipeError, match="is not YAML: line 2"):
        load_recipe(tmp_path / "bad.yaml")
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_the_resolved_recipe_is_the_same_recipe():
    read = recipe(
        {"base": BASE, "a": {"kind": "grow", "model": "base"}}, seed=4, defaults={"grow": {"lines": 7}}
    )
    again = parse_recipe(yaml.safe_load(read.to_yaml()))
    assert again == read
    assert fingerprints(again) == fingerprints(read)


def test_a_fingerprint_follows_settings_inputs_and_files(tmp_path):
    rows = tmp_path / "rows"
    rows.write_text("1")

    def prints(text="hello", lines=3):
        grow = {"kind": "grow", "model": "base", "lines": lines, "data": [str(rows)]}
        return fingerprints(recipe({"base": {**BASE, "text": text}, "other": BASE, "a": grow}))

    first = prints()
    assert prints() == first
    assert prints(lines=4)["base"] == first["base"]
    assert prints(lines=4)["a"] != first["a"]
    changed = prints(text="bye")
    assert changed["base"] != first["base"]
    assert changed["other"] == first["other"]
    assert changed["a"] != first["a"]
    rows.write_text("2")
    assert prints()["a"] != first["a"]
    assert prints()["base"] == first["base"]


@pytest.mark.parametrize(
    ("text", "count"), [("400k", 400_000), ("1.5M", 1_500_000), ("11B", 11 * 10**9), ("7", 7)]
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["1.5", "many", "-3k", 5])
def test_what_is_no_count_is_left_to_the_type(text):
    assert parse_count(text) == text


def test_both_and_neither_start_of_pretraining():
    data = {"kind": "pretrain", "data": ["base/x"]}
    assert "give either model or from_scratch" in problems({"base": BASE, "a": data})[0]
    sizes = {"kind": "scale", "base": "base", "drop": 2, "to": 12}
    assert "drop and to each say the size" in problems({"base": BASE, "a": sizes})[0]


def test_a_label_is_shown_and_changes_nothing():
    plain, labelled = recipe({"a": BASE}), recipe({"a": {**BASE, "label": "SFT v3+v4"}})
    assert fingerprints(plain) == fingerprints(labelled)
    assert "label" not in labelled.stages["a"].given()
    assert "label: SFT v3+v4" in labelled.to_yaml()


def test_the_full_demo_is_the_demo_without_tuning():
    demo, full = demo_recipe(seed=3), demo_recipe(full=True, seed=3)
    shorter = {"sft", "align", "merge", "instructions"}
    controls = demo.stages.pop("scores_controls").shown()  # the demo scores them beside the rest
    assert list(full.stages) == [name for name, stage in demo.stages.items() if stage.kind not in shorter]
    for name, stage in full.stages.items():
        ours, theirs = stage.shown(), demo.stages[name].shown()
        if stage.kind == "evaluate":
            scored = [*theirs.pop("models"), *controls["models"]]
            assert ours.pop("models") == [model for model in scored if model in full.stages]
        assert ours == theirs


def test_the_seeds_of_the_full_demo_share_what_no_seed_changes():
    one, other = (fingerprints(demo_recipe(full=True, seed=seed)) for seed in (0, 1))
    same = {name for name in one if one[name] == other[name]}
    assert same == {"base", "base_decayed", "docs", "problems", "scaled"}


def test_the_growth_study_and_its_rates_are_of_the_same_models():
    folder = Path(__file__).parent.parent / "recipes" / "growth"
    study, rates = (load_recipe(folder / name) for name in ("study.yaml", "rates.yaml"))
    kinds = {name: stage.kind for name, stage in study.stages.items()}
    grown = [name for name, kind in kinds.items() if kind == "scale"]
    assert [study.stages[name].given() for name in grown] == [rates.stages[name].given() for name in grown]
    assert rates.seed not in range(study.seed, study.seed + 8)
    trained = [stage.given() for stage in study.stages.values() if stage.kind == "pretrain"]
    assert len({stage["seed"] for stage in trained}) == 1  # the same order of the data for all arms
    assert {stage["learning_rate"] for stage in trained} <= {
        stage.given()["learning_rate"] for stage in rates.stages.values() if stage.kind == "pretrain"
    }
    one, other = (fingerprints(load_recipe(folder / "study.yaml", seed=seed)) for seed in (0, 1))
    assert {name for name in one if one[name] != other[name]} == {
        name for name, kind in kinds.items() if kind == "pretrain"
    }


def test_the_full_recipe_is_whole_but_for_its_data():
    path = Path(__file__).parent.parent / "recipes" / "solar-10.7b.yaml"
    found = load_recipe(path, need_files=False)
    assert found.ranks == 32
    assert found.uses("merge_v1") == ("candidate_1", "candidate_2")
    assert found.stages["scaled"].given() == {"base": "mistral", "drop": 8, "architecture": "llama"}
    assert len(found.absent_files()) == 8
    with pytest.raises(RecipeError) as refused:
        load_recipe(path)
    assert "alpaca_gpt4.jsonl" in str(refused.value)


def test_a_dry_run_says_what_would_be_run(tmp_path):
    path = Path(__file__).parent.parent / "recipes" / "solar-10.7b.yaml"
    shown = CliRunner().invoke(dusk, ["run", str(path), "--out", str(tmp_path / "run"), "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^candidate_2 +align +sft_v3_v4$", shown.output, re.MULTILINE)
    assert "Training on 4 x 8 GPUs." in shown.output
    assert shown.output.count("Not here yet: ") == 8
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("key", "value"), [("gpus", 0), ("nodes", -1), ("gpus", "many")])
def test_numbers_of_gpus_that_are_none(key, value):
    with pytest.raises(RecipeError, match=key):
        parse_recipe({"name": "r", key: value, "stages": {"a": {"kind": "model", "path": "dusk:constant"}}})
