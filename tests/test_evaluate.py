"""Evaluation of a random model through the harness, against the same numbers computed by hand; no network."""

import gzip
import json
import math
import socket

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from dusk.errors import CheckpointError, DataError, InputError, SettingError
from dusk.evaluate import evaluate, load_report, load_suite, read_entries, suite_names, tasks_choice
from dusk.evaluate import harness as harness_module
from dusk.evaluate import model as model_module
from dusk.evaluate.suites import FOLDER

torch.set_num_threads(1)

SUBJECTS = ("array", "graph", "matrix", "tensor", "series", "window")
VERBS = ("holds", "returns", "sorts", "copies", "joins")
OBJECTS = ("values", "edges", "rows", "keys", "labels", "numbers", "nodes")
NUMBERS = [str(number) for number in range(60)]


def _sentence(index):
    return (
        f"The {SUBJECTS[index % 6]} {VERBS[index % 5]} {OBJECTS[index % 7]} and {OBJECTS[(index // 7) % 7]}."
    )


def _documents():
    for source in ("numpy", "scipy"):
        for page in range(6):
            sentences = [_sentence(page * 11 + line) for line in range(5)]
            text = " ".join(dict.fromkeys(sentences))
            yield {
                "text": f"{text}\n\n{text}",
                "source": source,
                "module": f"{source}.m",
                "name": f"{source}.m.f{page}",
            }


def _problems():
    for level in (1, 2):
        for index in range(4):
            total = 3 * level + index
            yield {
                "question": f"The array holds {index} values and {3 * level} rows.",
                "answer": f"{index} + {3 * level} = {total}\n#### {total}",
                "level": level,
            }


@pytest.fixture(scope="module", autouse=True)
def _no_network():
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_):
            raise AssertionError("a connection was tried")

        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, rows in (("heldout", _documents()), ("arithmetic", _problems())):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "small.yaml"
    content = yaml.safe_load((FOLDER / "demo.yaml").read_text())
    content["suite"] = "small"
    for entry in content["tasks"]:
        if entry["local"] == "arithmetic":
            entry["settings"] = {"generation_kwargs": {"until": ["Question:"], "max_gen_toks": 8}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = []
    for seed in (0, 1):
        tokenizer = _tokenizer(bos=seed == 1)
        folder = tmp_path_factory.mktemp("models") / f"model{seed}"
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=160,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found.append(folder)
    return found


def _tokenizer(*, bos):
    texts = [row["text"] for row in _documents()] + [f"{p['question']} {p['answer']}" for p in _problems()]
    split = pre_tokenizers.Whitespace()
    words = {word for text in texts for word, _ in split.pre_tokenize_str(f"{text} Question: Answer:")}
    vocabulary = {
        word: number for number, word in enumerate(["<eos>", "<unk>", "<s>", *sorted(words | set(NUMBERS))])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    special = {"eos_token": "<eos>", "pad_token": "<eos>", "unk_token": "<unk>"}
    special |= {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=160, **special)


@pytest.fixture(scope="module")
def report(folders, suite, data):
    return evaluate(folders, suite=suite, data=data, device="cpu")


class ByHand:
    """Log-likelihoods of one sequence at a time, straight from transformers."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def context(self, text):
        return self.tokenizer(text)["input_ids"]

    @torch.no_grad()
    def nats(self, context, continuation):
        logs = self.model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
        at = range(len(context) - 1, len(context) + len(continuation) - 1)
        return sum(logs[place, token].item() for place, token in zip(at, continuation, strict=True))


@pytest.mark.parametrize(("name", "prefix"), [("model0", "<eos>"), ("model1", "<s>")])
def test_bits_per_byte_are_those_of_transformers(report, folders, name, prefix):
    hand = ByHand(folders[int(name[-1])])
    before = hand.tokenizer.convert_tokens_to_ids([prefix])
    texts = {row["name"]: row for row in _documents()}
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
    asked = tasks_choice.make_items(list(_documents()), task="t", items=200, seed=0)["t"]
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
    for problem in _problems():
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
    for problem in _problems():
        ids = hand.context(f"Question: {problem['question']}\nAnswer:")
        with torch.no_grad():
            out = hand.model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, pad_token_id=0)
        text = hand.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        written.add(text.split("Question :")[0])
    assert item.output[0] in written


def test_exact_matches_are_counted(folders, suite, data, monkeypatch):
    answers = {problem["question"]: problem["answer"] for problem in _problems()}

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
    accuracy = found.cell("model0", "Choice accuracy").value
    assert found.mean("model0", "Mean").value == pytest.approx((accuracy + 0.75) / 2)


def test_models_are_compared_item_by_item(report, folders, suite, data):
    found = report.compare("model0", "model1", resamples=500)
    for label in ("Held-out bits/byte", "Choice probability", "Answer bits/byte", "Mean"):
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


def test_a_stopped_evaluation_goes_on_where_it_was(folders, suite, data, tmp_path, report, monkeypatch):
    out = tmp_path / "results.json"
    run_tasks, ran = harness_module.run_tasks, []

    def stop_at_arithmetic(model, tasks, *, entry, **options):
        if entry.task == "arithmetic":
            raise KeyboardInterrupt
        return run_tasks(model, tasks, entry=entry, **options)

    monkeypatch.setattr(harness_module, "run_tasks", stop_at_arithmetic)
    with pytest.raises(KeyboardInterrupt):
        evaluate(folders[0], suite=suite, data=data, out=out)
    assert not out.exists()
    (kept,) = (tmp_path / "results.items").iterdir()
    assert [entry.entry for entry in read_entries(kept)] == ["heldout", "docs_choice"]

    def count(model, tasks, *, entry, **options):
        ran.append(entry.task)
        return run_tasks(model, tasks, entry=entry, **options)

    monkeypatch.setattr(harness_module, "run_tasks", count)
    found = evaluate(folders[0], suite=suite, data=data, out=out)
    assert ran == ["arithmetic"]
    assert found.scores("model0") == report.scores("model0")

    kept.write_bytes(kept.read_bytes()[:-9])  # cut off: nothing of it can be trusted
    evaluate(folders[0], suite=suite, data=data, out=out)
    assert ran == ["arithmetic", "heldout", "docs_choice", "arithmetic"]


def test_other_settings_are_measured_anew(folders, suite, data, tmp_path):
    out = tmp_path / "results.json"
    limited = evaluate(folders[0], suite=suite, data=data, out=out, limit=2)
    assert limited.scores("model0")["heldout"]["bits_per_byte"].n == 2
    assert limited.scores("model0")["arithmetic"]["exact_match"].n == 4
    evaluate(folders[1], suite=suite, data=data, out=out, limit=2)
    assert [model["name"] for model in json.loads(out.read_text())["models"]] == ["model0", "model1"]
    with pytest.raises(SettingError, match="cannot stand beside") as caught:
        evaluate(folders[0], suite=suite, data=data, out=out)
    assert caught.value.problems == ["limit: 2 there, null now"]
    out.write_text("{}")
    with pytest.raises(DataError, match="no results"):
        evaluate(folders[0], suite=suite, data=data, out=out)


def test_a_chat_template_is_applied_when_asked(folders, suite, data, tmp_path, report):
    chat = tmp_path / "chat"
    chat.mkdir()
    for file in folders[0].iterdir():
        (chat / file.name).write_bytes(file.read_bytes())
    template = "{% for m in messages %}The {{ m.content }}{% endfor %} returns "
    (chat / "chat_template.jinja").write_text(template)
    plain = evaluate(chat, suite=suite, data=data, limit=2)
    asked = evaluate(chat, suite=suite, data=data, limit=2, apply_chat_template=True)
    label = "Choice probability"
    assert asked.cell("chat", label).value != pytest.approx(plain.cell("chat", label).value)
    hand = ByHand(folders[0])
    item = asked.model("chat").entries["docs_choice"].items[0]
    question = tasks_choice.make_items(list(_documents()), task="t", items=200, seed=0)["t"][0]
    context = hand.context(f"The {question['head']} returns")
    assert item.output[0] == pytest.approx(hand.nats(context, hand.ids(question["choices"][0])), abs=1e-4)


def test_a_wrong_suite_or_setting_is_told(folders, suite, data, tmp_path):
    with pytest.raises(SettingError, match="no such file"):
        evaluate(folders, suite="no/such.yaml", data=data)
    with pytest.raises(SettingError, match="limit 0"):
        evaluate(folders, suite=suite, data=data, limit=0)
    with pytest.raises(SettingError, match="batch_size -1"):
        evaluate(folders, suite=suite, data=data, batch_size=-1)
    with pytest.raises(SettingError, match="device nonsense"):
        evaluate(folders, suite=suite, data=data, device="nonsense")
    with pytest.raises(SettingError, match="no model"):
        evaluate([], suite=suite, data=data)
    with pytest.raises(SettingError, match="twice"):
        evaluate([folders[0], folders[0]], suite=suite, data=data)


def test_a_folder_that_is_no_model_is_told(folders, suite, data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model"):
        evaluate(tmp_path / "empty", suite=suite, data=data)
    with pytest.raises(InputError, match="2 of 3 models") as caught:
        evaluate([tmp_path / "empty", folders[0], tmp_path / "absent"], suite=suite, data=data)
    assert len(caught.value.problems) == 2


def test_missing_data_are_asked_for(folders, suite, data, tmp_path):
    with pytest.raises(DataError, match="--data"):
        evaluate(folders, suite=suite)
    (tmp_path / "heldout.jsonl").write_bytes((data / "heldout.jsonl").read_bytes())
    with pytest.raises(DataError, match=r"arithmetic\.jsonl is missing"):
        evaluate(folders, suite=suite, data=tmp_path)
    (tmp_path / "arithmetic.jsonl").write_text('{"question": "?", "level": 1}\n')
    with pytest.raises(DataError, match="has no answer"):
        evaluate(folders, suite=suite, data=tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "arithmetic.jsonl").write_bytes((data / "arithmetic.jsonl").read_bytes())
    (tmp_path / "arithmetic.jsonl").unlink()
    assert evaluate(folders[0], suite=suite, data=[tmp_path, other], limit=1).models


@pytest.mark.parametrize("name", suite_names())
def test_suites_of_ours_are_whole(name):
    suite = load_suite(name)
    assert suite.suite == name
    assert suite.columns
    assert suite.description


def test_every_fault_of_a_suite_file_is_told(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "suit": "x",
                "tasks": [{"task": "a", "num_fewshots": 3, "items": 0}, {"local": "choice"}, "b"],
            }
        )
    )
    with pytest.raises(SettingError) as caught:
        load_suite(path)
    told = str(caught.value)
    for part in (
        "Did you mean suite?",
        "Did you mean num_fewshot?",
        "`items` is 0",
        "go together",
        "no mapping",
    ):
        assert part in told
    assert len(caught.value.problems) == 7


def test_a_column_must_be_a_metric_of_its_task(folders, data, tmp_path):
    path = tmp_path / "wrong.yaml"
    entry = {
        "task": "heldout",
        "local": "documents",
        "data": "heldout.jsonl",
        "columns": {"X": "bit_per_byte"},
    }
    path.write_text(yaml.safe_dump({"suite": "wrong", "tasks": [entry]}))
    with pytest.raises(SettingError, match="columns do not fit") as caught:
        evaluate(folders[0], suite=path, data=data, limit=1)
    assert "Did you mean bits_per_byte" in str(caught.value)


def test_an_unknown_task_gets_the_nearest_names():
    error = harness_module.unknown_task("hela_swag", ["hellaswag", "mmlu"])
    assert "Did you mean hellaswag?" in str(error)
    assert "demo, h6, openllm" in str(error)


def _too_long(suite, folder):
    path = folder / "long.yaml"
    content = yaml.safe_load(suite.read_text())
    content["tasks"] = [entry for entry in content["tasks"] if entry["task"] == "arithmetic"]
    content["tasks"][0]["settings"]["generation_kwargs"]["max_gen_toks"] = 160
    content.pop("mean")
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_task_that_does_not_fit_the_context_is_told(folders, suite, data, tmp_path):
    with pytest.raises(SettingError, match="context is 160 tokens"):
        evaluate(folders[0], suite=_too_long(suite, tmp_path), data=data)


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
        evaluate(folders, suite=_too_long(suite, tmp_path), data=data, jobs=2)
