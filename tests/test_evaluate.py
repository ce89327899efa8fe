"""Evaluation of random models through the harness, against the same numbers computed by hand; no network."""

import gzip
import json
import math
import os
import signal

import pytest
import torch
import yaml

from dusk.errors import SettingError
from dusk.evaluate import evaluate, load_report, read_entries, tasks_choice
from dusk.evaluate import harness as harness_module
from dusk.evaluate import model as model_module
from evaluation_cases import ByHand, documents, problems, write_data, write_models, write_suite

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def report(folders, suite, data):
    return evaluate(folders, suite=suite, data=data, device="cpu")


@pytest.mark.parametrize(("name", "prefix"), [("model0", "<eos>"), ("model1", "<s>")])
def test_bits_per_byte_are_those_of_transformers(report, folders, name, prefix):
    hand = ByHand(folders[int(name[-1])])
    before = hand.tokenizer.convert_tokens_to_ids([prefix])
    texts = {row["name"]: row for row in documents()}
    entry = report.model(name).entries["heldout"]
    bits = {row["source"]: 0.0 for row in texts.values()}
    size = dict(bits)
    values = []
    for row in texts.values():
        total = -hand.nats(before, hand.ids(row["text"])) / math.log(2)
        bits[row["source"]] += total
        size[row["source"]] += len(row["text"].encode())
        values.append(total / len(row["text"].encode()))
    assert sorted(item.values["bits_per_byte"] for item in entry.items) == pytest.approx(
        sorted(values), abs=1e-5
    )
    scores = report.scores(name)["heldout"]
    assert scores["bits_per_byte"].value == pytest.approx(sum(bits.values()) / sum(size.values()), abs=1e-5)
    for source, total in bits.items():
        assert scores[f"bits_per_byte/{source}"].value == pytest.approx(total / size[source], abs=1e-5)
        assert scores[f"bits_per_byte/{source}"].n == 6
    assert not scores["bits_per_byte"].higher_is_better


def test_choice_probabilities_are_softmaxes_of_transformers(report, folders):
    hand = ByHand(folders[1])
    asked = tasks_choice.make_items(list(documents()), task="t", items=200, seed=0)["t"]
    items = report.model("model1").entries["docs_choice"].items
    assert len(items) == len(asked) > 0
    for question, item in zip(asked, items, strict=True):
        context = hand.context(question["head"])
        logs = torch.tensor([hand.nats(context, hand.ids(choice)) for choice in question["choices"]])
        assert item.output == pytest.approx(logs.tolist(), abs=1e-4)
        expected = logs.softmax(0)[question["right"]].item()
        assert item.values["choice_probability"] == pytest.approx(expected, abs=1e-5)
        assert item.values["acc"] == float(logs.argmax() == question["right"])


def test_reference_answers_cost_what_transformers_says(report, folders):
    hand = ByHand(folders[1])
    items = {(i.task, i.id): i for i in report.model("model1").entries["arithmetic"].items}
    bits = size = 0.0
    for problem in problems():
        context = hand.context(f"Question: {problem['question']}\nAnswer:")
        bits -= hand.nats(context, hand.ids(problem["answer"])) / math.log(2)
        size += len(problem["answer"].encode()) + 1
    assert len(items) == 8
    found = sum(i.values["answer_bits_per_byte"] * i.weights["answer_bits_per_byte"] for i in items.values())
    assert found == pytest.approx(bits, rel=1e-5)
    assert sum(item.weights["answer_bits_per_byte"] for item in items.values()) == size


def test_generated_text_is_greedy(report, folders):
    hand = ByHand(folders[0])
    item = report.model("model0").entries["arithmetic"].items[0]
    written = set()
    for problem in problems():
        ids = hand.context(f"Question: {problem['question']}\nAnswer:")
        with torch.no_grad():
            out = hand.model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, pad_token_id=0)
        text = hand.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        written.add(text.split("Question :")[0])
    assert item.output[0] in written


def test_exact_matches_are_counted(folders, suite, data, monkeypatch):
    answers = {problem["question"]: problem["answer"] for problem in problems()}

    def write(self, requests, disable_tqdm=True):
        texts = []
        for number, request in enumerate(requests):
            answer = answers[request.doc["question"]]
            texts.append(f" {answer}" if number % 4 < 3 else " it is #### 999")
        return texts

    monkeypatch.setattr(model_module.HarnessModel, "generate_until", write)
    found = evaluate(folders[0], suite=suite, data=data, device="cpu")
    scores = found.scores("model0")
    assert scores["arithmetic_level_1"]["exact_match"].value == 0.75
    assert scores["arithmetic"]["exact_match"].value == 0.75
    assert scores["arithmetic"]["exact_match"].n == 8
    assert scores["arithmetic"]["exact_match"].stderr == pytest.approx(0.25 / math.sqrt(2))
    accuracy = found.cell("model0", "Choice acc.").value
    assert found.mean("model0", "Mean").value == pytest.approx((accuracy + 0.75) / 2)


def test_models_are_compared_item_by_item(report, folders, suite, data):
    found = report.compare("model0", "model1", resamples=500)
    for label in ("Held-out bits/byte", "Choice prob.", "Answer bits/byte", "Mean"):
        shown = report.mean if label == "Mean" else report.cell
        change = shown("model1", label).value - shown("model0", label).value
        assert found[label].difference == pytest.approx(change)
        assert found[label].low <= change <= found[label].high
    same = report.compare("model0", "model0", resamples=100)
    assert {each.p for each in same.values()} == {1.0}


def test_results_are_kept_and_not_measured_again(folders, suite, data, tmp_path, report, monkeypatch, capfd):
    out = tmp_path / "results.json"
    told = []
    first = evaluate(folders, suite=suite, data=data, out=out, progress=lambda *each: told.append(each))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    done = [each[0] for each in told]
    assert done == sorted(done)
    assert done[-1] == told[-1][1] > 0
    assert {each[2] for each in told} >= {"model0: heldout", "model1: arithmetic"}

    content = out.read_bytes()
    written = json.loads(content)
    assert written["suite"] == "small"
    assert [model["name"] for model in written["models"]] == ["model0", "model1"]
    kept = tmp_path / written["models"][0]["items"]
    with gzip.open(kept, "rt") as file:
        rows = [json.loads(line) for line in file]
    assert {row["entry"] for row in rows if "entry" in row} == {"heldout", "docs_choice", "arithmetic"}
    assert written["models"][0]["scores"]["heldout"]["bits_per_byte"]["n"] == 12
    assert first.to_json()["models"][0]["scores"] == report.to_json()["models"][0]["scores"]

    monkeypatch.setattr(model_module, "load_model", _never)
    evaluate(folders, suite=suite, data=data, out=out)
    assert out.read_bytes() == content
    again = load_report(out)
    assert again.compare("model0", "model1", resamples=50) == first.compare("model0", "model1", resamples=50)


def _never(*_, **__):
    raise AssertionError("measured again")


def _killed(work):
    """Run the work in a fork that must end by SIGKILL."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_a_killed_evaluation_goes_on_where_it_was(folders, suite, data, tmp_path, report, monkeypatch):
    """Killed between two levels of arithmetic: neither whole entries nor the first level are measured again."""
    out = tmp_path / "results.json"
    run_tasks, ran = harness_module.run_tasks, []
    monkeypatch.setattr(harness_module, "LOT_ITEMS", 1)

    def die_at_level_2(model, loaded, **options):
        if list(loaded.tasks) == ["arithmetic_level_2"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return run_tasks(model, loaded, **options)

    monkeypatch.setattr(harness_module, "run_tasks", die_at_level_2)
    _killed(lambda: evaluate(folders[0], suite=suite, data=data, out=out))
    assert not out.exists()
    (kept,) = (tmp_path / "results.items").iterdir()
    assert [entry.entry for entry in read_entries(kept)] == ["heldout", "docs_choice", "arithmetic, lot 1"]

    def count(model, loaded, **options):
        ran.extend(loaded.tasks)
        return run_tasks(model, loaded, **options)

    monkeypatch.setattr(harness_module, "run_tasks", count)
    found = evaluate(folders[0], suite=suite, data=data, out=out)
    assert ran == ["arithmetic_level_2"]
    assert [entry.entry for entry in read_entries(kept)] == ["heldout", "docs_choice", "arithmetic"]
    assert load_report(out).scores("model0") == found.scores("model0")

    kept.write_bytes(kept.read_bytes()[:-9])  # cut off: nothing of it can be trusted
    whole = evaluate(folders[0], suite=suite, data=data, out=out)
    assert ran[1:] == ["heldout", "docs_choice", "arithmetic_level_1", "arithmetic_level_2"]
    assert whole.scores("model0") == found.scores("model0")
    for label in ("Arithmetic", "Answer bits/byte"):  # in other batches, so not to the last bit
        cell, alone = (each.cell("model0", label) for each in (report, whole))
        assert (cell.value, cell.stderr, cell.n) == pytest.approx(
            (alone.value, alone.stderr, alone.n), abs=1e-6
        )


def test_what_was_stopped_under_other_settings_is_not_taken(folders, suite, data, tmp_path, monkeypatch):
    """Its lots are neither used nor read as results, and go when the entry is whole."""
    out = tmp_path / "results.json"
    run_tasks = harness_module.run_tasks
    monkeypatch.setattr(harness_module, "LOT_ITEMS", 1)

    def stop_at_level_2(model, loaded, **options):
        if list(loaded.tasks) == ["arithmetic_level_2"]:
            raise KeyboardInterrupt
        return run_tasks(model, loaded, **options)

    with monkeypatch.context() as patch:
        patch.setattr(harness_module, "run_tasks", stop_at_level_2)
        with pytest.raises(KeyboardInterrupt):
            evaluate(folders[0], suite=suite, data=data, out=out, limit=2)
    other = yaml.safe_load(suite.read_text())
    other["tasks"], other["mean"] = other["tasks"][:2], {}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    evaluate(folders[0], suite=tmp_path / "other.yaml", data=data, out=out)
    assert list(load_report(out).scores("model0")) == ["heldout", "docs_choice"]
    out.unlink()
    found = evaluate(folders[0], suite=suite, data=data, out=out)
    assert found.scores("model0")["arithmetic"]["exact_match"].n == 8
    (kept,) = (tmp_path / "results.items").iterdir()
    assert [entry.entry for entry in read_entries(kept)] == ["heldout", "docs_choice", "arithmetic"]


def test_a_chat_template_is_applied_when_asked(folders, suite, data, tmp_path, report):
    chat = tmp_path / "chat"
    chat.mkdir()
    for file in folders[0].iterdir():
        (chat / file.name).write_bytes(file.read_bytes())
    template = "{% for m in messages %}The {{ m.content }}{% endfor %} returns "
    (chat / "chat_template.jinja").write_text(template)
    plain = evaluate(chat, suite=suite, data=data, limit=2)
    asked = evaluate(chat, suite=suite, data=data, limit=2, apply_chat_template=True)
    label = "Choice prob."
    assert asked.cell("chat", label).value != pytest.approx(plain.cell("chat", label).value)
    hand = ByHand(folders[0])
    item = asked.model("chat").entries["docs_choice"].items[0]
    question = tasks_choice.make_items(list(documents()), task="t", items=200, seed=0)["t"][0]
    context = hand.context(f"The {question['head']} returns")
    assert item.output[0] == pytest.approx(hand.nats(context, hand.ids(question["choices"][0])), abs=1e-4)


def test_models_side_by_side_get_the_same_scores(folders, suite, data, tmp_path, report):
    told = []
    found = evaluate(
        folders,
        suite=suite,
        data=data,
        out=tmp_path / "r.json",
        jobs=2,
        progress=lambda *each: told.append(each),
    )
    assert found.to_json()["models"][1]["scores"] == report.to_json()["models"][1]["scores"]
    assert [model.name for model in found.models] == ["model0", "model1"]
    assert told[-1][0] == told[-1][1]
    with pytest.raises(SettingError, match="context"):
        evaluate(folders, suite=write_suite(tmp_path, max_gen_toks=160), data=data, jobs=2)
