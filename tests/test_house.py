"""The house is as it is drawn: rooms, front door, sizes of files, the words of the command line."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import dusk
from dusk.cli.commands import COMMANDS
from dusk.cli.main import dusk as command_line

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "dusk"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
CONTRACT = [
    "scale",
    "inspect",
    "verify",
    "scan",
    "pretrain",
    "sft",
    "align",
    "merge",
    "eval",
    "judge",
    "contamination",
    "data",
    "run",
    "budget",
    "report",
    "chat",
    "serve",
    "push",
    "demo",
]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def rooms() -> set[str]:
    """Packages with code, and modules, of src/dusk."""
    packages = {init.parent.name for init in SOURCE.glob("*/__init__.py")}
    return packages | {file.stem for file in SOURCE.glob("*.py") if not file.stem.startswith("__")}


def functions(tree: ast.AST) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def code_lines(function: Function) -> int:
    """The lines of a function without its docstring."""
    first = function.body[0]
    has_words = ast.get_docstring(function, clean=False) is not None
    words = (first.end_lineno or 0) - first.lineno + 1 if has_words else 0
    return (function.end_lineno or 0) - function.lineno + 1 - words


def definition(where: str) -> Function | ast.ClassDef:
    """The definition behind `module:name`, found in the text through re-exports; nothing is imported."""
    module, name = where.split(":")
    base = SOURCE.parent / module.replace(".", "/")
    tree = ast.parse((base / "__init__.py" if base.is_dir() else base.with_suffix(".py")).read_text())
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef) and node.name == name:
            return node
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(f"{node.module}:{alias.name}")
    raise LookupError(where)


def raises(function: Function) -> bool:
    return any(isinstance(node, ast.Raise) for node in ast.walk(function))


def tells_what_it_raises(function: Function) -> bool:
    return re.search(r"\braises\b", ast.get_docstring(function) or "", re.IGNORECASE) is not None


def test_the_readme_draws_every_room_and_no_other():
    readme = (ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else ""
    rows = re.findall(r"^\|\s*\d\s*\|\s*`(\w+)`\s*\|", readme, re.MULTILINE)
    if not rows:
        pytest.skip("README.md has no table of rooms")
    assert sorted(rows) == sorted(rooms())


def test_the_import_contract_names_every_room():
    settings = (ROOT / "pyproject.toml").read_text().split("layers = [")[1].split("]")[0]
    assert set(re.findall(r"\w+", settings)) == rooms()


def test_every_door_is_exported_and_leads_somewhere():
    assert set(dusk.__all__) == {*dusk._DOORS, "__version__"}
    assert all(definition(where) for where in dusk._DOORS.values())


@pytest.mark.parametrize("name", sorted(set(dusk._DOORS) - {"LayerMap"}))
def test_functions_of_the_front_door_tell_what_they_raise(name):
    function = definition(dusk._DOORS[name])
    assert isinstance(function, Function)
    assert ast.get_docstring(function)
    assert tells_what_it_raises(function)


def test_methods_of_the_layer_map_tell_what_they_raise():
    methods = [m for m in functions(definition(dusk._DOORS["LayerMap"])) if not m.name.startswith("_")]
    assert [m.name for m in methods if not ast.get_docstring(m)] == []
    assert [m.name for m in methods if raises(m) and not tells_what_it_raises(m)] == []


def test_files_are_of_one_thing():
    sizes = {file: len(file.read_text().splitlines()) for file in FILES}
    assert {str(f): size for f, size in sizes.items() if size > LONGEST_FILE} == {}


def test_functions_are_of_one_thing():
    found = [
        (file.name, f.name, code_lines(f)) for file in FILES for f in functions(ast.parse(file.read_text()))
    ]
    assert [entry for entry in found if entry[2] > LONGEST_FUNCTION] == []


def test_the_library_is_quiet():
    loud = [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file in FILES
        if SOURCE / "cli" not in file.parents
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert loud == []


def test_the_commands_are_those_of_the_contract():
    assert list(COMMANDS) == CONTRACT


def test_the_help_fits_a_terminal_and_has_every_command():
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(command_line, ["--help"])
    assert shown.exit_code == 0
    assert max(map(len, shown.output.splitlines())) <= 80
    assert re.findall(r"^  ([a-z]+)  ", shown.output, re.MULTILINE) == CONTRACT


def test_these_checks_see_what_they_look_for():
    loud = ast.parse("def f():\n    '''Words.\n\n    More.'''\n    raise ValueError\n").body[0]
    assert isinstance(loud, ast.FunctionDef)
    assert (code_lines(loud), raises(loud), tells_what_it_raises(loud)) == (2, True, False)
