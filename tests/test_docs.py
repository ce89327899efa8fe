"""What the documents show can be typed: every command line of theirs is parsed, none is run."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from dusk.cli import settings as settings_commands
from dusk.cli.main import dusk
from dusk.recipe import load_recipe

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md") if (ROOT / name).exists()),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


class Parsed(Exception):
    """What a command's work is replaced by."""


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in languages]


def command_lines(text: str) -> list[list[str]]:
    """The `dusk ...` lines of the fenced blocks as words; brackets around what may be left out are dropped."""
    lines = "\n".join(blocks(text, "", "sh", "bash", "console")).replace("\\\n", " ").splitlines()
    words = [line.strip().removeprefix("$ ") for line in lines]
    return [
        shlex.split(re.sub(r"[\[\]]", "", line), comments=True)[1:]
        for line in words
        if line.startswith("dusk ")
    ]


def inline_lines(text: str) -> Iterator[list[str]]:
    """The words behind each `dusk ...` in running text, as far as they are words and flags."""
    outside = FENCE.sub("", text)
    for found in re.findall(r"`dusk ([^`]+)`", outside):
        yield found.replace("[", "").replace("]", "").split()


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse and check as the command line does; raises click's errors and SettingError for what it refuses."""

    def stop(*given: object) -> None:
        raise Parsed

    monkeypatch.setattr(settings_commands, "_work", stop)
    command: click.Command = dusk
    context, rest = click.Context(dusk), list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
        is_group = isinstance(command, click.Group)
        context = (
            click.Context(command, parent=context)
            if is_group
            else command.make_context(name, rest, parent=context)
        )
    if isinstance(context.command, settings_commands.SettingsCommand):
        with pytest.raises(Parsed), context:
            context.command.invoke(context)


def cases() -> list[object]:
    return [
        pytest.param(words, id=f"{file.name}: {' '.join(words)[:60]}")
        for file in DOCUMENTS
        for words in command_lines(file.read_text())
    ]


@pytest.mark.parametrize("words", cases())
def test_a_command_of_the_documents_can_be_typed(words, monkeypatch):
    parse(words, monkeypatch)


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_commands_and_flags_in_running_text_exist(file):
    for words in inline_lines(file.read_text()):
        command: click.Command = dusk
        while isinstance(command, click.Group) and words and re.fullmatch("[a-z]+", words[0]):
            context = click.Context(command)
            found = command.get_command(context, words[0])
            assert found is not None, f"dusk {words[0]}"
            command = found
            del words[0]
        known = {flag for option in command.params for flag in option.opts} | {"--help"}
        flags = {word.strip(".,|").split("=")[0] for word in words if word.startswith("--")}
        assert flags <= known, f"{command.name}: {flags - known}"


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_modules_tests_recipes_and_extras_that_commands_name_exist(file):
    text = file.read_text()
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for named in re.findall(r"(?:'|`)(?:dusk|\.)\[([a-z,]+)\]", text):
        assert set(named.split(",")) <= extras, named
    lines = "\n".join(blocks(text, "", "sh", "bash", "console")).replace("\\\n", " ")
    for module in re.findall(r"python -m ((?:dusk|bench)[\w.]*)", lines):
        place = ROOT / ("src" if module.startswith("dusk") else "") / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for path in re.findall(r"\b((?:tests|recipes)/[\w./-]+\.(?:py|ya?ml))", lines):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_to_files(file):
    missing = [link for link in LINK.findall(file.read_text()) if not (file.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_make_verbs_exist(file):
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = file.read_text()
    named = set(re.findall(r"`make ([a-z-]+)`", text))
    named |= set(re.findall(r"^make ([a-z-]+)", "\n".join(blocks(text, "sh", "")), re.MULTILINE))
    assert named <= verbs


def test_the_recipe_of_the_documents_is_one(tmp_path):
    (text,) = [
        block for block in blocks((ROOT / "docs/recipes.md").read_text(), "yaml") if "stages:" in block
    ]
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert list(recipe.stages) == list(yaml.safe_load(text)["stages"])


@pytest.mark.parametrize(
    "line",
    ["scale a b --drop two", "scale a b --dropp 2", "scael a b", "scale a", "data docs ./out", "run a"],
)
def test_what_is_wrong_would_be_seen(line, monkeypatch):
    from dusk.errors import SettingError

    with pytest.raises((click.ClickException, SettingError)):
        parse(line.split(), monkeypatch)
