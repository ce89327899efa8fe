"""A text corpus that every machine with dusk on it already has: the documentation of installed packages.

Docstrings are read with `ast`, so nothing is imported or run. Each document goes to one of three parts by
the module it stands in (`base`, `continue`, `heldout`), so that no module is on two sides; texts that stand
twice are kept once; and what still shares thirteen words in a row with an earlier part is dropped from the
later one. The digests of every package's part are pinned, so another version of Python or of a package says so.
"""

import ast
import hashlib
import inspect
import json
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dusk.data.overlap import Grams, ngrams, shared
from dusk.data.readers import write_rows
from dusk.errors import DataError

PARTS = ("base", "continue", "heldout")
PACKAGES = ("stdlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch")

_PART_SHARES = (55, 93, 100)  # upper bounds in per cent of the modules, in the order of PARTS
_SHORTEST = 120  # characters; below it a docstring is a label rather than a text
_SKIPPED_FOLDERS = {"tests", "test", "testing", "site-packages", "idlelib", "_vendor", "externals"}

_BLOCKS = ("cases", "body", "handlers", "orelse", "finalbody")  # where a statement holds others, in order
_CALLS_DOC = re.compile(rb"doc\w*\s*\(")  # a walk over a whole tree is worth it where there is such a call


@dataclass(frozen=True)
class Document:
    """One docstring or help topic, and where it stands."""

    text: str
    source: str  # the package
    module: str
    name: str  # qualified name, "" for the module itself
    part: str


def part_of(source: str, module: str) -> str:
    """The part that a module belongs to: the same on every machine and in every version."""
    digest = hashlib.blake2b(f"{source}:{module}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") % 100
    return next(part for part, bound in zip(PARTS, _PART_SHARES, strict=True) if share < bound)


def documentation(packages: Sequence[str] = PACKAGES, *, workers: int = 2) -> dict[str, list[Document]]:
    """Collect the documents of the installed `packages`, by part, in a fixed order.

    Raises:
        DataError: a package is not installed.
    """
    missing = [package for package in packages if not _root(package).is_dir()]
    if missing:
        raise DataError(
            f"documentation: not installed here: {', '.join(missing)}",
            remedy="Install them (`make install` does), or name the packages to read with --packages.",
        )
    files = [(package, path) for package in packages for path in _files(_root(package))]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        found = [read for reads in pool.map(_read, files, chunksize=64) for read in reads]
    return _without_overlap(_distinct(found))


def write_documentation(
    out: str | Path, *, packages: Sequence[str] = PACKAGES, workers: int = 2
) -> dict[str, Any]:
    """Write `base.jsonl`, `continue.jsonl` and `heldout.jsonl` into the folder `out`.

    Returns the number of documents of each part, the digests, and as `notes` which packages hold other texts
    than those that the shipped base model was trained on.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    parts = documentation(packages, workers=workers)
    for part, documents in parts.items():
        write_rows(folder / f"{part}.jsonl", map(asdict, documents))
    found = digests(parts)
    counts = {part: len(documents) for part, documents in parts.items()}
    # a text belongs to the first package that has it, so parts of other sets of packages cannot be compared
    notes = differences(found) if sorted(packages) == sorted(PACKAGES) else []
    return {"documents": counts, "digests": found, "notes": notes}


def digests(parts: dict[str, list[Document]]) -> dict[str, dict[str, str]]:
    """SHA-256 (first 16 hex digits) of each package's texts in each part: `{package: {part: digest}}`."""
    sums: dict[str, dict[str, hashlib._Hash]] = {}
    for part, documents in parts.items():
        for document in documents:
            of_package = sums.setdefault(document.source, {})
            of_package.setdefault(part, hashlib.sha256()).update(document.text.encode() + b"\0")
    return {
        package: {part: total.hexdigest()[:16] for part, total in of.items()} for package, of in sums.items()
    }


def differences(found: dict[str, dict[str, str]]) -> list[str]:
    """Name the packages whose texts are not the pinned ones (other versions), one line each."""
    pinned = json.loads(Path(__file__).with_name("documentation.json").read_text())
    return [
        f"the texts of {package} are not those of {pinned['versions'].get(package, '?')}, which the base read"
        for package, of_package in found.items()
        if pinned["digests"].get(package) != of_package
    ]


def _root(package: str) -> Path:
    if package == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    return Path(sysconfig.get_path("purelib")) / package


def _files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*.py") if not _SKIPPED_FOLDERS & set(p.relative_to(root).parts))


def _read(where: tuple[str, Path]) -> list[tuple[Document, Grams]]:
    """The documents of one file, each with its n-grams, which cost more than the reading."""
    package, path = where
    names = path.relative_to(_root(package)).with_suffix("").parts
    prefix = () if package == "stdlib" else (package,)
    module = ".".join((*prefix, *(name for name in names if name != "__init__")))
    source = path.read_bytes()
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []  # templates and files for other versions of Python
    part = part_of(package, module)
    added = _added_docs(tree, module) if _CALLS_DOC.search(source) else ()
    texts = [*_docstrings(tree, module), *added, *_topics(tree, module)]
    return [
        (Document(text, package, module, name, part), ngrams(text))
        for name, text in texts
        if len(text) >= _SHORTEST
    ]


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """Docstrings of a module and of all that is defined in it, in the order of the file."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield name, text
    for child in _statements(node):
        own = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _docstrings(child, f"{name}.{child.name}" if own else name)  # type: ignore[attr-defined]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements right inside one, and what holds statements; nine nodes in ten are expressions."""
    for field in _BLOCKS:
        yield from getattr(node, field, ())


def _added_docs(tree: ast.AST, module: str) -> Iterator[tuple[str, str]]:
    """Documentation of compiled functions, given as strings to `add_docstr`, `add_newdoc` and their like."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or "doc" not in ast.unparse(node.func).rsplit(".", 1)[-1]:
            continue
        named = [a.attr for a in node.args if isinstance(a, ast.Attribute)]
        words = [text for text in map(_string, node.args) if text]
        for text in words:
            if len(text) >= _SHORTEST:
                label = named[0] if named else next((w for w in words if w.isidentifier()), "")
                yield f"{module}.{label}".rstrip("."), inspect.cleandoc(text)


def _string(node: ast.AST) -> str | None:
    """The text of a string constant, also of one with `.format(...)` behind it."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _topics(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """The help topics of `pydoc_data/topics.py`: a dictionary from topic to text."""
    if module != "pydoc_data.topics":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                topic, text = _string(key) if key else None, _string(value)
                if topic and text:
                    yield topic, inspect.cleandoc(text)


def _distinct(found: Sequence[tuple[Document, Grams]]) -> list[tuple[Document, Grams]]:
    """Keep the first of texts that differ in white space alone."""
    first: dict[str, tuple[Document, Grams]] = {}
    for document, grams in found:
        first.setdefault(" ".join(document.text.split()), (document, grams))
    return list(first.values())


def _without_overlap(found: Sequence[tuple[Document, Grams]]) -> dict[str, list[Document]]:
    """Sort into parts, and drop from each what shares thirteen words in a row with an earlier part."""
    parts: dict[str, list[Document]] = {}
    earlier: list[Grams] = []
    for part in PARTS:
        mine = [(document, grams) for document, grams in found if document.part == part]
        hits = shared([grams for _, grams in mine], earlier)
        kept = [pair for pair, hit in zip(mine, hits, strict=True) if not hit]
        parts[part] = [document for document, _ in kept]
        earlier += [grams for _, grams in kept]
    return parts
