"""Tasks of the harness by their names: IFEval and BBH on local rows, and what they need besides."""

import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import benchmark_rows as rows
from dusk.errors import DataError, InputError, SettingError
from dusk.evaluate import evaluate, harness, needs
from dusk.evaluate import model as model_module

pytestmark = pytest.mark.usefixtures("no_network")

IFEVAL = [
    {
        "key": 1,
        "prompt": "Use no comma and not the word cat.",
        "instruction_id_list": ["punctuation:no_comma", "keywords:forbidden_words"],
        "kwargs": [{}, {"forbidden_words": ["cat"]}],
    },
    {
        "key": 2,
        "prompt": "Write at least three words.",
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"relation": "at least", "num_words": 3}],
    },
    {
        "key": 3,
        "prompt": "Put the answer in double quotation marks.",
        "instruction_id_list": ["startend:quotation"],
        "kwargs": [{}],
    },
]
ANSWERS = ["A dog, with a comma", "These are four words", 'Sure:\n"quoted"']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rows.save_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture
def ifeval_packages(monkeypatch):
    """Where they are not installed: no instruction here asks for a language, and a frozen dict is a dict."""
    for name, member in (("langdetect", "detect"), ("immutabledict", "immutabledict")):
        if find_spec(name) is None:
            stand_in = types.ModuleType(name)
            setattr(stand_in, member, dict)
            monkeypatch.setitem(sys.modules, name, stand_in)
    yield
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        del sys.modules[name]


def _write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def _answering(monkeypatch, answers):
    def generate_until(self, requests, disable_tqdm=True):
        return [answers[request.doc["prompt"]] for request in requests]

    monkeypatch.setattr(model_module.HarnessModel, "generate_until", generate_until)


def _ranking(monkeypatch, likely):
    def loglikelihood(self, requests, disable_tqdm=True):
        return [(-1.0 if likely(request) else -9.0, False) for request in requests]

    monkeypatch.setattr(model_module.HarnessModel, "loglikelihood", loglikelihood)


def test_ifeval_checks_answers_on_local_rows(folder, tmp_path, monkeypatch, ifeval_packages):
    """Of four instructions one is broken; the loose reading drops the first line and finds the third kept."""
    _write(tmp_path / "google" / "IFEval" / "train.jsonl", IFEVAL)
    prompts = (row["prompt"] for row in IFEVAL)
    _answering(monkeypatch, dict(zip(prompts, ANSWERS, strict=True)))
    found = evaluate(folder, suite="ifeval", data=tmp_path, device="cpu", out=tmp_path / "r.json")
    scores = found.scores("small")["ifeval"]
    assert scores["prompt_level_strict_acc"].value == pytest.approx(1 / 3)
    assert scores["prompt_level_loose_acc"].value == pytest.approx(2 / 3)
    assert scores["inst_level_strict_acc"].value == pytest.approx(2 / 4)
    assert scores["inst_level_loose_acc"].value == pytest.approx(3 / 4)
    assert [item.output for item in found.model("small").entries["ifeval"].items] == ANSWERS


def test_prompts_that_need_nltks_data_are_told_before_the_model_answers(
    folder, tmp_path, monkeypatch, ifeval_packages
):
    counted = {
        "key": 4,
        "prompt": "Use two words in capitals.",
        "instruction_id_list": ["change_case:capital_word_frequency"],
        "kwargs": [{"capital_relation": "at least", "capital_frequency": 2}],
    }
    _write(tmp_path / "google" / "IFEval" / "train.jsonl", [*IFEVAL, counted])
    monkeypatch.setattr("nltk.data.path", [str(tmp_path / "none")])
    with pytest.raises(
        InputError, match="task ifeval: 1 of its prompts are checked with nltk's data"
    ) as caught:
        evaluate(folder, suite="ifeval", data=tmp_path, device="cpu")
    assert "python -m nltk.downloader punkt_tab" in caught.value.remedy


def test_a_task_that_needs_packages_names_all_of_them(folder, tmp_path, monkeypatch):
    def lack(self, names):
        raise ModuleNotFoundError("No module named 'langdetect'", name="langdetect")

    monkeypatch.setattr(type(harness._own_tasks()), "load", lack)
    monkeypatch.setattr(needs, "find_spec", lambda name: name == "nltk" or None)
    with pytest.raises(
        InputError, match="ifeval: needs langdetect and immutabledict, which are not installed"
    ) as caught:
        evaluate(folder, suite="ifeval", data=tmp_path)
    assert caught.value.remedy == 'pip install "lm_eval[ifeval]"'


def test_where_bbhs_rows_belong_is_told(folder, tmp_path):
    """Each of its sets has a folder of its own; one command fetches all."""
    with pytest.raises(DataError, match="task leaderboard_bbh: data set SaylorTwift/bbh") as caught:
        evaluate(folder, suite="leaderboard_bbh", data=tmp_path)
    place = tmp_path / "SaylorTwift" / "bbh"
    assert f"into {place / 'boolean_expressions'}, fetch" in caught.value.remedy
    assert f"hf download SaylorTwift/bbh --repo-type dataset --local-dir {place}`" in caught.value.remedy


def test_bbh_is_the_mean_over_all_items_as_the_harness_has_it(folder, tmp_path, monkeypatch):
    """All 24 sets, laid out as on the hub; the first choice is right in three items of one set alone."""
    index = harness._own_tasks().task_index
    names = index["leaderboard_bbh"].cfg["task"]
    for name in names:
        choices = yaml.safe_load(Path(index[name].yaml_path).read_text())["doc_to_choice"]
        right = name == "leaderboard_bbh_boolean_expressions"
        content = [{"input": f"Which, {name}?", "target": choices[0 if right else -1]}] * (3 if right else 1)
        _write(tmp_path / "SaylorTwift/bbh" / name.removeprefix("leaderboard_bbh_") / "test.jsonl", content)
    _ranking(monkeypatch, lambda request: request.idx == 0)
    found = evaluate(folder, suite="leaderboard_bbh", data=tmp_path, device="cpu")
    score = found.cell("small", "leaderboard_bbh")
    assert (score.value, score.n) == (pytest.approx(3 / (3 + len(names) - 1)), 3 + len(names) - 1)
    assert found.scores("small")["leaderboard_bbh_boolean_expressions"]["acc_norm"].value == 1.0
    with pytest.raises(SettingError, match="Did you mean leaderboard_bbh"):
        evaluate(folder, suite="leaderboard_bbb", data=tmp_path)
