"""Instructions made from documentation: summaries, the three sets, and the files."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dusk.data.instructions import (
    docs_preferences,
    docs_questions,
    docs_tasks,
    write_instructions,
)
from dusk.data.kinds import Kind
from dusk.data.readers import read_rows, write_rows
from dusk.data.summaries import parameters, public_module, public_name, sentences, summary
from dusk.errors import DataError

NUMPY = """norm(x, ord=None)

Return the :func:`norm <numpy.linalg.norm>` of a ``matrix`` or *vector* [1]_.
It is one of eight. This is a third sentence.

Parameters
----------
x : array_like
    Input.
ord, axis : int, optional
    Order: of the norm.
**kwargs : dict
    More.

Returns
-------
n : float
"""
GOOGLE = """Computes the gradient of current tensors.

Args:
    inputs (Tensor): to what.
        with: a colon
    *args: more.

Returns:
    grad: nothing
"""


def document(name: str, text: str, package: str = "numpy", module: str = "", **more: Any) -> dict[str, Any]:
    module = module or name.rpartition(".")[0]
    return {"text": text, "source": package, "module": module, "name": name, **more}


def test_a_summary_is_plain_text() -> None:
    found = summary(document("numpy.linalg._linalg.norm", NUMPY, module="numpy.linalg._linalg"))
    assert found is not None
    assert (found.name, found.module, found.package) == ("numpy.linalg.norm", "numpy.linalg", "numpy")
    assert found.first == "Return the norm of a matrix or vector."
    assert found.more == "Return the norm of a matrix or vector. It is one of eight."
    assert found.what == "function"
    assert found.parameters == ("x", "ord", "axis", "**kwargs")


def test_parameters_in_either_style() -> None:
    assert parameters(GOOGLE) == ("inputs", "*args")
    assert parameters("Nothing here.") == ()


@pytest.mark.parametrize(
    ("name", "module", "what"),
    [
        ("torch.nn.Linear", "torch.nn", "class"),
        ("torch.nn", "torch.nn", "module"),
        ("a.b._f", "a.b", "function"),
    ],
)
def test_what_a_name_stands_for(name: str, module: str, what: str) -> None:
    found = summary(document(name, GOOGLE, module=module))
    assert found is not None
    assert found.what == what
    assert found.name == name


@pytest.mark.parametrize(
    "text",
    [
        "Short one.",
        "No full stop at the end of this sentence here",
        "::\n\n    code",
        "- a list\n- of things that are told.",
        "lower case letters begin this sentence here.",
        f"Very {'long ' * 60}sentence.",
        "The norm of a norm of norms of norm.",
    ],
)
def test_texts_that_nothing_can_be_asked_about(text: str) -> None:
    assert summary(document("numpy.norm", text)) is None


def test_names_and_modules_are_shown_as_they_are_imported() -> None:
    assert public_name("a._b.c", "a._b.c.D._e") == "a.c.D._e"
    assert public_name("pydoc_data.topics", "assert") == "assert"
    assert public_module("_pydecimal") == "_pydecimal"
    assert sentences("f(x) -> int\n\nGives x. Then y.") == ["Gives x.", "Then y."]


THINGS = [
    "gradient",
    "matrix",
    "window",
    "parser",
    "socket",
    "kernel",
    "polynomial",
    "series",
    "thread",
    "graph",
]
VERBS = ["Computes", "Returns", "Builds", "Removes", "Compares", "Prints"]


def corpus() -> list[dict[str, Any]]:
    return [
        document(
            f"{package}.{thing}s.{verb.lower()}_{place}",
            f"{verb} the {thing} of every {place} in {package.upper()} order.\n\nArgs:\n    {thing}: it.\n",
            package,
            part=["base", "continue", "heldout"][(len(thing) + len(verb)) % 3],
        )
        for package in ("numpy", "torch", "sympy")
        for thing in THINGS
        for verb in VERBS
        for place in ("city", "table")
    ]


@pytest.mark.parametrize("make", [docs_questions, docs_tasks, docs_preferences])
def test_sets_are_distinct_and_depend_on_seed_and_documents_alone(make: Any) -> None:
    documents = corpus()
    rows = list(make(documents, seed=1))
    assert len(rows) > 60
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert rows == list(make(documents[::-1], seed=1))
    assert rows != list(make(documents, seed=2))


@pytest.mark.parametrize("make", [docs_questions, docs_tasks, docs_preferences])
def test_only_the_parts_asked_for_are_used(make: Any) -> None:
    documents = corpus()
    held_out = {doc["name"] for doc in documents if doc["part"] == "heldout"}
    sentences_held_out = {doc["text"].partition("\n")[0] for doc in documents if doc["part"] == "heldout"}
    rows = list(make(documents))
    assert rows
    for row in rows:
        assert not any(f"`{name}`" in row["prompt"] for name in held_out)
        assert not sentences_held_out & set(row.values())
    assert len(list(make(documents, parts=["continue"]))) < len(rows)


def test_questions_are_answered_from_their_document() -> None:
    answers = {doc["name"]: doc["text"].partition("\n")[0] for doc in corpus()}
    for row in docs_questions(corpus()):
        assert row["completion"] == answers[row["prompt"].split("`")[1]]


def test_tasks_are_solved() -> None:
    by_name = {doc["name"]: doc for doc in corpus()}
    by_sentence = {doc["text"].partition("\n")[0]: doc for doc in corpus()}
    rows = list(docs_tasks(corpus()))
    assert set(Counter(row["task"] for row in rows)) == {
        "package",
        "module",
        "completion",
        "parameters",
        "blank",
    }
    for row in rows:
        prompt, answer = row["prompt"], row["completion"]
        if row["task"] == "package":
            assert by_sentence[prompt.partition("\n\n")[2]]["source"] == answer
        elif row["task"] == "module":
            assert by_sentence[prompt.partition("\n\n")[2]]["module"] == answer
        elif row["task"] == "completion":
            head = prompt.partition(": ")[2]
            assert by_name[prompt.split("`")[1]]["text"].startswith(f"{head} {answer}\n")
        elif row["task"] == "parameters":
            assert f"Args:\n    {answer}: it." in by_name[prompt.split("`")[1]]["text"]
        else:
            assert prompt.partition(": ")[2].replace("____", answer) in by_sentence


def test_wrong_answers_are_wrong_and_of_the_named_difficulty() -> None:
    by_sentence = {doc["text"].partition("\n")[0]: doc for doc in corpus()}
    by_name = {doc["name"]: doc for doc in corpus()}
    rows = list(docs_preferences(corpus()))
    assert Counter(row["difficulty"] for row in rows).keys() == {1, 2, 3}
    for row in rows:
        asked = by_name[row["prompt"].split("`")[1]]
        assert by_sentence[row["chosen"]] == asked
        if row["difficulty"] == 1:
            assert sorted(row["rejected"].split()) == sorted(row["chosen"].split())
            assert row["rejected"] != row["chosen"]
        else:
            same = by_sentence[row["rejected"]]["source"] == asked["source"]
            assert same == (row["difficulty"] == 3)
            assert by_sentence[row["rejected"]] != asked


def test_preferences_are_about_other_documents() -> None:
    asked = [
        {r["prompt"].split("`")[1] for r in make(corpus())} for make in (docs_questions, docs_preferences)
    ]
    assert not asked[0] & asked[1]


PROBLEMS = [
    {"question": f"Tom has {n} pens. Ann has 3 pens. How many pens do Tom and Ann have together?",
     "answer": f"Tom and Ann have {n} + 3 = {n + 3} pens.\n#### {n + 3}", "level": 1 + n % 2}
    for n in range(4, 40)
]  # fmt: skip


def test_written_sets_are_of_kinds_that_training_takes(tmp_path: Path) -> None:
    write_rows(tmp_path / "docs.jsonl", corpus())
    write_rows(tmp_path / "problems.jsonl", PROBLEMS)
    files = [tmp_path / "docs.jsonl", tmp_path / "problems.jsonl"]
    counts = write_instructions(tmp_path / "out", data=files, seed=3, rows=20)
    held_out = sum(doc["part"] == "heldout" for doc in corpus())
    assert counts.pop("left out: held-out documents") == held_out
    assert counts == dict.fromkeys(
        ["docs_qa", "docs_tasks", "docs_preferences", "math", "math_preferences"], 20
    )
    for name in counts:
        kind = Kind.PREFERENCE if "preferences" in name else Kind.COMPLETION
        rows = [row.fields for row in read_rows(tmp_path / "out" / f"{name}.jsonl", kinds=[kind])]
        hardness = [row.get("difficulty", row.get("level", 0)) for row in rows]
        assert kind is Kind.COMPLETION or hardness == sorted(hardness)
    first = (tmp_path / "out" / "math_preferences.jsonl").read_bytes()
    write_instructions(tmp_path / "again", data=files, seed=3, rows=20)
    assert (tmp_path / "again" / "math_preferences.jsonl").read_bytes() == first


def test_only_what_there_is_data_for_is_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "problems.jsonl", PROBLEMS)
    assert write_instructions(tmp_path / "out", data=[tmp_path / "problems.jsonl"]) == {
        "math": len(PROBLEMS),
        "math_preferences": len(PROBLEMS),
    }


def test_rows_of_another_form(tmp_path: Path) -> None:
    rows = [PROBLEMS[0], {"text": "a"}, {"question": None, "answer": "7"}, *[{"n": 1}] * 30]
    write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="32 rows are neither") as caught:
        write_instructions(tmp_path / "out", data=[tmp_path / "rows.jsonl"])
    assert caught.value.problems[0] == f"{tmp_path / 'rows.jsonl'}:2: has text"
    assert caught.value.problems[-1] == "and 12 more"
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(DataError, match="no row"):
        write_instructions(tmp_path / "out", data=[tmp_path / "rows.jsonl"])
    assert not (tmp_path / "out").exists()


def test_held_out_documents_alone_give_nothing(tmp_path: Path) -> None:
    write_rows(tmp_path / "docs.jsonl", [doc for doc in corpus() if doc["part"] == "heldout"])
    with pytest.raises(DataError, match="too little") as caught:
        write_instructions(tmp_path / "out", data=[tmp_path / "docs.jsonl"])
    assert len(caught.value.problems) == 3
    assert "held out" in caught.value.remedy
