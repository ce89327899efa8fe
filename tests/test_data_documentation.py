"""The documentation corpus: what is read, how it is divided, and what other versions are told."""

import json
from collections import Counter
from pathlib import Path

import networkx
import pytest

from dusk.data import documentation as corpus
from dusk.data.documentation import PARTS, Document, differences, digests, documentation, part_of
from dusk.data.overlap import overlapping
from dusk.errors import DataError

LONG = "This sentence is here to make the text long enough to be taken as documentation, which it now is. "


@pytest.fixture(scope="module")
def parts() -> dict[str, list[Document]]:
    return documentation(["networkx"], workers=1)


def test_texts_are_those_that_python_shows(parts: dict[str, list[Document]]) -> None:
    by_name = {d.name: d for documents in parts.values() for d in documents}
    found = by_name["networkx.algorithms.centrality.degree_alg.degree_centrality"]
    shown = networkx.degree_centrality.__doc__
    assert shown is not None
    assert found.text.splitlines()[0] == shown.strip().splitlines()[0]
    assert found.source == "networkx"
    assert found.module == "networkx.algorithms.centrality.degree_alg"


def test_no_module_is_on_two_sides(parts: dict[str, list[Document]]) -> None:
    sides = {d.module: d.part for documents in parts.values() for d in documents}
    assert all(sides[d.module] == part for part, documents in parts.items() for d in documents)
    assert all(part_of(d.source, d.module) == part for part, documents in parts.items() for d in documents)


def test_no_thirteen_words_are_on_two_sides(parts: dict[str, list[Document]]) -> None:
    texts = {part: [d.text for d in parts[part]] for part in PARTS}
    assert not any(overlapping(texts["continue"], texts["base"]))
    assert not any(overlapping(texts["heldout"], texts["base"] + texts["continue"]))


def test_no_text_stands_twice(parts: dict[str, list[Document]]) -> None:
    counts = Counter(" ".join(d.text.split()) for documents in parts.values() for d in documents)
    assert counts.most_common(1)[0][1] == 1


def test_shares_of_modules() -> None:
    found = Counter(part_of("numpy", f"numpy.module_{n}") for n in range(10_000))
    assert found["base"] == pytest.approx(5_500, abs=150)
    assert found["continue"] == pytest.approx(3_800, abs=150)
    assert found["heldout"] == pytest.approx(700, abs=80)


def test_docstrings_of_compiled_functions_and_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "pkg"
    (root / "tests").mkdir(parents=True)
    (root / "made.py").write_text(f'add_docstr(all.name, r"""\nname(x)\n\n{LONG * 2}""")\n')
    (root / "defs.py").write_text(
        f'"""Module. {LONG * 2}"""\nclass A:\n    def f(self):\n        """In f. {LONG * 2}"""\n'
    )
    (root / "tests" / "t.py").write_text(f'"""Not taken. {LONG * 2}"""\n')
    (root / "broken.py").write_text("def (:\n")
    monkeypatch.setattr(corpus, "_root", lambda package: root)
    found = {d.name: d.text for file in corpus._files(root) for d, _ in corpus._read(("pkg", file))}
    assert set(found) == {"pkg.made.name", "pkg.defs", "pkg.defs.A.f"}
    assert found["pkg.made.name"].startswith("name(x)\n\nThis sentence")
    assert found["pkg.defs.A.f"].startswith("In f.")


def test_digests_follow_the_texts() -> None:
    one = Document("a text", "pkg", "pkg.m", "pkg.m", "base")
    other = Document("b text", "pkg", "pkg.m", "pkg.m", "base")
    assert digests({"base": [one]}) == {"pkg": {"base": digests({"base": [one]})["pkg"]["base"]}}
    assert digests({"base": [one]}) != digests({"base": [other]})


def test_other_versions_are_named() -> None:
    pinned = json.loads(Path(corpus.__file__).with_name("documentation.json").read_text())
    assert differences({"numpy": pinned["digests"]["numpy"]}) == []
    (note,) = differences({"numpy": {"base": "0" * 16}})
    assert note.startswith("the texts of numpy are not those of ")
    assert pinned["versions"]["numpy"] in note


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(DataError, match="not installed here: no_such_package"):
        documentation(["networkx", "no_such_package"])
