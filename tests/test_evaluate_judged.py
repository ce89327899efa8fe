"""Judged evaluation against a server of our own that grades, stalls, errs and leaves the scale."""

import json
import time
from contextlib import ExitStack

import pytest
from transformers import AutoTokenizer

import benchmark_rows
from dusk.cli import main
from dusk.errors import CheckpointError, DataError, InputError, SettingError, WorkError
from dusk.evaluate.judged import Judge, judge_folders, judge_models, read_questions
from dusk.evaluate.judged.answering import LocalAnswerer
from dusk.evaluate.judged.judge import read_grade
from flawed_server import serving, stall

QUESTIONS = [
    {"id": 1, "category": "writing", "questions": ["Write a line.", "Shorter."], "references": [None, "Hm."]},
    {"id": 2, "category": "writing", "questions": ["Name a tree.", "Another."]},
    {"id": 3, "category": "maths", "questions": ["1 + 1?", "Twice that?"], "references": ["2", "4"]},
]
EXAMPLE = {"id": 0, "category": "maths", "questions": ["2 + 2?", "And 3 more?"], "references": ["4", "7"]}


@pytest.fixture
def serve(monkeypatch):
    """Starts a judge: `reply(messages, number)` gives text, a status, or None to stall."""
    monkeypatch.setattr("dusk.data.server._wait", lambda *_: 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with ExitStack() as stack:

        def start(reply):
            def behave(handler, body, number):
                answer = reply(body["messages"], number)
                if answer is None:
                    stall(handler, 0.6)
                elif isinstance(answer, int):
                    handler.send(answer, b"busy")
                else:
                    handler.answer(answer)

            url, server = stack.enter_context(serving(behave))
            server.url = url
            return server

        yield start


class Echo:
    """A model that answers with what it was asked, and how much stood before."""

    def __init__(self, name="echo"):
        self.name = self.digest = name
        self.seen = []

    def answer(self, conversations):
        self.seen += [list(conversation) for conversation in conversations]
        return [f"{self.name} on {c[-1]['content']} after {len(c) - 1}" for c in conversations]


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return read_questions(path)


@pytest.fixture
def example(tmp_path):
    path = tmp_path / "example.jsonl"
    path.write_text(json.dumps(EXAMPLE) + "\n")
    return read_questions(path)[0]


def _judge(server, **options):
    return Judge(server.url, "judge", **options)


def _graded(judge):
    judge.grade([([{"role": "user", "content": "x"}], None)], lambda *_: None)


def _by_text(messages, _):
    """3 for what stands after nothing, 5 after one turn, 10 for mathematics."""
    shown = messages[-1]["content"]
    grade = 10 if "1 + 1?" in shown else 3 if "after 0" in shown.rpartition("[answer to grade]")[2] else 5
    return f"The scale ends at 10. Fine.\n**Score: {grade}**/10"


def test_two_turns_with_and_without_an_example(questions, example, serve, tmp_path):
    server, model = serve(_by_text), Echo()
    report = judge_models([model], questions, _judge(server), out=tmp_path / "r.json", example=example)
    assert report.runs == [("echo", 0), ("echo", 1)]
    zero = report.score("echo", 0)
    assert (zero.value, zero.n) == (pytest.approx((3 + 5 + 3 + 5 + 10 + 10) / 6), 6)
    assert report.score("echo", 0, turn=1).value == pytest.approx(16 / 3)
    assert report.score("echo", 0, category="writing").value == 4.0
    assert report.score("echo", 1, category="writing").value == 5.0
    assert report.compare(("echo", 0), ("echo", 1)).difference == pytest.approx((1 + 1 + 0) / 3)
    shots = ("echo", 0), ("echo", 1)
    assert report.compare(*shots, turn=1).difference == pytest.approx((2 + 2 + 0) / 3)
    assert report.compare(*shots, turn=2).difference == 0.0
    assert report.compare(*shots, category="writing").difference == pytest.approx(1.0)
    assert report.compare(*shots, category="none") is None
    # the second turn follows the model's own first answer, the example stands before both
    assert [m["content"] for m in model.seen[3]] == [
        "Write a line.",
        "echo on Write a line. after 0",
        "Shorter.",
    ]
    assert [m["content"] for m in model.seen[6]] == ["2 + 2?", "4", "And 3 more?", "7", "Write a line."]
    assert set(server.keys) == {"Bearer secret"}
    assert [server.asked[0][name] for name in ("model", "temperature", "seed")] == ["judge", 0.0, 0]
    assert "max_tokens" not in server.asked[0]
    shown = [asked["messages"][1]["content"] for asked in server.asked]
    assert sum("[reference answer]" in text for text in shown) == 2 * 3
    assert not any("2 + 2?" in text for text in shown)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["scores"][0]["overall"] == zero.to_json()
    assert written["scores"][1]["categories"]["maths"]["value"] == 10.0


def test_a_stopped_run_goes_on_and_another_model_is_added(questions, serve, tmp_path):
    def die_at_the_fourth(messages, number):
        return 400 if number == 4 else "Score: 7"

    out, model = tmp_path / "r.json", Echo()
    with pytest.raises(WorkError, match="does not answer: status 400"):
        judge_models([model], questions, _judge(serve(die_at_the_fourth), concurrency=1), out=out)
    assert not out.exists()
    kept = tmp_path / "r.grades.jsonl"
    assert kept.read_bytes().count(b"\n") == 3
    kept.write_bytes(kept.read_bytes() + b'{"key": "cut o')  # killed while writing
    server, again = serve(lambda *_: "Score: 9"), Echo()
    report = judge_models([again], questions, _judge(server), out=out)
    assert len(server.asked) == 3
    assert [grade.grade for grade in report.grades] == [7.0] * 3 + [9.0] * 3
    assert len(again.seen) == 3
    judge_models([Echo(), Echo("other")], questions, _judge(server), out=out)
    assert len(server.asked) == 3 + 6


def test_grades_off_the_scale_are_asked_for_again_and_then_left_out(questions, serve, tmp_path):
    def stubborn(messages, _):
        shown = messages[1]["content"]
        if "Name a tree." in shown and "Another." not in shown:
            return "Score: 11"
        if len(messages) > 2:
            assert "Score: N" in messages[-1]["content"]
            return "Score: 6"
        return "I would rather not."

    server = serve(stubborn)
    report = judge_models([Echo()], questions, _judge(server), out=tmp_path / "r.json")
    assert [grade.grade for grade in report.grades] == [6.0, None, 6.0, 6.0, 6.0, 6.0]
    assert report.score("echo", 0).n == 5
    assert report.notes == ["1 of 6 answers have no grade: the judge stayed off the scale of 1 to 10"]
    with pytest.raises(WorkError, match="gave no grade from 1 to 10 in 6 answers"):
        judge_models([Echo("b")], questions, _judge(serve(lambda *_: "Nice.")), out=tmp_path / "n.json")
    assert not (tmp_path / "n.json").exists()


def test_a_judge_that_stalls_or_is_busy_is_asked_again(questions, serve, tmp_path):
    def slow_once(messages, number):
        return {1: None, 2: 503}.get(number, "Score: 8")

    server = serve(slow_once)
    judge = _judge(server, timeout_seconds=0.2)
    report = judge_models([Echo()], questions, judge, out=tmp_path / "r.json")
    assert report.score("echo", 0).value == 8.0
    assert len(server.asked) == 6 + 2
    with pytest.raises(WorkError, match="no answer in time"):
        _graded(_judge(serve(lambda *_: None), timeout_seconds=0.1))
    with pytest.raises(WorkError, match="the connection failed"):
        _graded(Judge("http://127.0.0.1:9/v1", "judge"))
    with pytest.raises(WorkError, match="status 401") as caught:
        _graded(_judge(serve(lambda *_: 401)))
    assert "OPENAI_API_KEY" in caught.value.remedy


def test_several_answers_are_graded_at_a_time(questions, serve, tmp_path):
    """An answer that is cut off or empty has no grade, and the others are graded."""

    def slow(messages, number):
        time.sleep(0.05)
        return "" if "Name a tree." in messages[1]["content"] else "Score: 4"

    server = serve(slow)
    report = judge_models([Echo()], questions, _judge(server), out=tmp_path / "r.json")
    assert server.at_once[1] == 3
    assert [grade.grade for grade in report.grades] == [4.0, None, 4.0] * 2
    assert report.grades[1].verdict == "the answer is empty"


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Score: 7", 7.0),
        ("**Score:** 8/10", 8.0),
        ("점수: 9.5", 9.5),
        ("score 3. On reflection\nScore: 4", 4.0),
        ("Score: 0", None),
        ("Score: -5", None),
        ("Score: 11", None),
        ("seven", None),
        ("", None),
    ],
)
def test_grades_are_read_from_the_end(text, grade):
    assert read_grade(text) == grade


def test_every_fault_of_a_question_file_is_told(tmp_path, questions):
    path = tmp_path / "bad.jsonl"
    wrong = [
        {"id": 1, "category": "x", "questions": ["one"]},
        {"questions": ["a", "b"]},
        QUESTIONS[0],
        QUESTIONS[0],
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in wrong))
    with pytest.raises(DataError) as caught:
        read_questions(path)
    assert [problem.rpartition(":")[2] for problem in caught.value.problems[:2]] == [
        "1: `questions` (and `references`, if any) must be two texts".rpartition(":")[2],
        "2: the row has no `id` or no `category`".rpartition(":")[2],
    ]
    assert "the id 1 stands on several rows" in caught.value.problems[-1]
    with pytest.raises(DataError, match="example needs"):
        judge_models([], questions, Judge("http://x", "j"), out=tmp_path / "r", example=questions[0])
    with pytest.raises(SettingError, match="is no URL"):
        Judge("localhost:8000", "j")


def test_models_that_cannot_be_talked_to_are_told_before_one_is_asked(tmp_path, questions, serve):
    talks, mute, other = (benchmark_rows.save_model(tmp_path / name) for name in ("talks", "mute", "other"))
    (talks / "chat_template.jinja").write_text("{{ messages[-1].content }}")
    server = serve(lambda *_: "Score: 5")
    asked = {"questions": tmp_path / "questions.jsonl", "judge": server.url, "judge_model": "j"}
    with pytest.raises(InputError, match="3 of 4 models cannot be evaluated") as caught:
        judge_folders([talks, mute, other, tmp_path / "absent"], out=tmp_path / "r.json", **asked)
    told = [problem.partition("\n")[0] for problem in caught.value.problems]
    names = [str(tmp_path / name) for name in ("mute", "other", "absent")]
    assert all(name in line for name, line in zip(names, told, strict=True))
    assert sum("has no chat template" in line for line in told) == 2
    assert server.asked == []


def test_the_command_asks_a_model_folder_in_its_template(tmp_path, questions, serve, capsys):
    folder = benchmark_rows.save_model(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="no chat template"):
        LocalAnswerer("plain", folder, max_tokens=4)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    )
    model = LocalAnswerer("plain", folder, max_tokens=4)
    asked = [{"role": "user", "content": "Why?"}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("user: Why?\nassistant:", return_tensors="pt")["input_ids"]
    out = model._model.model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=2)
    expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert model.answer([asked]) == [expected]
    server = serve(lambda *_: "Score: 5")
    args = ["judge", folder, "--questions", tmp_path / "questions.jsonl", "--judge", server.url]
    args += ["--judge-model", "j", "--max-tokens", "4", "--out", tmp_path / "r.json"]
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "grades from 1 to 10 by j" in printed
    assert "plain, 0-shot" in printed
    assert "5.00" in printed
