"""The judged comparison of Solar Pro's skips with the plain stack, from the recipe, by a judge on this machine."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dusk.recipe import load_recipe, run
from flawed_server import Flawed, serving

RECIPES = Path(__file__).parent.parent / "recipes"
QUESTIONS = [
    json.loads(line) for line in (RECIPES / "word-problems/questions.jsonl").read_text().splitlines()
]


def grade_of(text: str) -> int:
    """What the judge here makes of an answer: its length, on the scale."""
    return 1 + len(text) % 10


@pytest.fixture
def judge() -> Iterator[tuple[str, type[Flawed]]]:
    def behave(handler: Flawed, body: dict[str, Any], number: int) -> None:
        _, _, answer = body["messages"][-1]["content"].rpartition("[answer to grade]\n")
        handler.answer(f"Score: {grade_of(answer)}")

    with serving(behave) as served:
        yield served


def small(judge: str, folder: Path) -> Path:
    """The recipe with its data and its training cut to what a test takes."""
    content = yaml.safe_load((RECIPES / "solar-pro-demo.yaml").read_text())
    content["stages"]["problems"]["problems"] = 120
    content["stages"]["tasks"]["rows"] = 20
    content["defaults"]["pretrain"]["tokens"] = 8192
    content["stages"]["judged"] |= {"judge": judge, "max_tokens": 8}
    shutil.copytree(RECIPES / "word-problems", folder / "word-problems")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "recipe.yaml"


def test_skips_and_plain_are_judged_without_an_example_and_with_one(
    judge: tuple[str, type[Flawed]], tmp_path: Path
):
    url, server = judge
    run(load_recipe(small(url, tmp_path)), tmp_path / "run")
    config = json.loads((tmp_path / "run/skipping_aligned/config.json").read_text())
    assert (config["bskcn_1"], config["bskcn_3"]) == ([3, 6], [5, 8])
    lines = (tmp_path / "run/judged/grades.grades.jsonl").read_text().splitlines()
    grades: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert len(grades) == len(server.asked) == 2 * 2 * 2 * len(QUESTIONS)
    assert [grade["grade"] for grade in grades] == [grade_of(grade["answer"]) for grade in grades]
    found = json.loads((tmp_path / "run/judged/grades.json").read_text())
    assert [(score["model"], score["shots"]) for score in found["scores"]] == [
        ("plain_aligned", 0),
        ("plain_aligned", 1),
        ("skipping_aligned", 0),
        ("skipping_aligned", 1),
    ]
    for shots, difference in enumerate(found["differences"]):
        plain, skipping = (
            [grade["grade"] for grade in grades if (grade["model"], grade["shots"]) == (model, shots)]
            for model in ("plain_aligned", "skipping_aligned")
        )
        assert difference["shots"] == shots
        assert difference["difference"] == pytest.approx((sum(skipping) - sum(plain)) / len(plain))


def test_the_real_recipe_asks_the_same(tmp_path: Path):
    """At its size: LogicKor's questions and an example, which are the reader's to bring."""
    told, demo = (
        yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["stages"]["judged"]
        for name in ("solar-pro", "solar-pro-demo")
    )
    assert told["models"] == demo["models"]
    assert re.fullmatch(r"data/logickor.*\.jsonl", told["questions"])
    assert re.fullmatch(r"data/logickor.*\.jsonl", told["example"])
