"""From a YAML file to a Recipe, or to one error that names all that is wrong with it."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dusk.data.hub import is_hub_id
from dusk.errors import RecipeError
from dusk.recipe.assembly import Assembled, assemble
from dusk.recipe.kinds import KINDS
from dusk.recipe.recipe import Recipe, derived_seed, stage_of
from dusk.recipe.settings import StageSettings
from dusk.recipe.stages import ModelStage
from dusk.recipe.words import nearest
from dusk.recipe.yaml_file import read_yaml

_TOP = (
    "name",
    "description",
    "seed",
    "threads",
    "gpus",
    "nodes",
    "tables",
    "defaults",
    "stages",
    "stages_from",
)
_RESERVED = {"state"}


def load_recipe(path: str | Path, *, seed: int | None = None, need_files: bool = True) -> Recipe:
    """Read a recipe file.

    Args:
        path: the YAML file. Paths in it are relative to its folder.
        seed: in place of the recipe's own.
        need_files: whether data files have to be there yet.

    Raises:
        RecipeError: with every problem of the file at once.
    """
    path = Path(path)
    content = read_yaml(path)
    return parse_recipe(content, source=str(path), folder=path.parent, seed=seed, need_files=need_files)


def demo_recipe(*, full: bool = False, seed: int | None = None) -> Recipe:
    """The packaged recipe that `dusk demo` runs, or that `dusk demo --full` runs with each seed."""
    return load_recipe(Path(__file__).with_name("demo-full.yaml" if full else "demo.yaml"), seed=seed)


def parse_recipe(
    content: Any,
    *,
    source: str = "the recipe",
    folder: Path | None = None,
    seed: int | None = None,
    need_files: bool = True,
) -> Recipe:
    """Make a Recipe of plain data; `source` is what messages call it, `folder` what paths are relative to."""
    if not isinstance(content, dict):
        raise RecipeError(f"{source} is not a recipe: it holds no `name:` and `stages:`.")
    folder = (folder or Path()).absolute()
    whole = assemble(content if seed is None else {**content, "seed": seed}, folder)
    reading = _Reading(folder, whole, need_files)
    recipe = reading.recipe(whole.content)
    if recipe is None:
        count = len(reading.problems)
        raise RecipeError(f"{source}: {count} problem{'s' * (count > 1)}", problems=reading.problems)
    return recipe


class _Reading:
    """One recipe being read: the problems found so far, and where its paths start."""

    def __init__(self, folder: Path, whole: Assembled, need_files: bool) -> None:
        self.folder, self.folders, self.need_files = folder, whole.folders, need_files
        self.problems = list(whole.problems)
        self.names: list[str] = []

    def recipe(self, content: Mapping[Any, Any]) -> Recipe | None:
        for key in content:
            if key not in _TOP:
                self.problems.append(f"unknown key {key!r}{nearest(str(key), _TOP)}")
        defaults = self._defaults(content.get("defaults"))
        raw = content.get("stages")
        if not isinstance(raw, dict) or not raw:
            self.problems.append("`stages` is missing or empty: it maps the name of a stage to its settings")
            raw = {}
        seed = content.get("seed", 0)
        self.names = [str(name) for name in raw]
        stages = {str(name): self._stage(str(name), stage, defaults, seed) for name, stage in raw.items()}
        whole = {name: stage for name, stage in stages.items() if stage is not None}
        self._check_tables(content.get("tables"))
        head = {key: content[key] for key in _TOP[:-3] if key in content}
        try:
            recipe = Recipe.model_validate({**head, "stages": whole or {"none": StageSettings(kind="none")}})
        except ValidationError as error:
            self.problems[:0] = [_told(fault, "", ()) for fault in error.errors()]
            return None
        return None if self.problems else recipe

    def _defaults(self, given: Any) -> dict[str, dict[str, Any]]:
        defaults = {} if given is None else given
        if not isinstance(defaults, dict) or not all(isinstance(value, dict) for value in defaults.values()):
            self.problems.append("`defaults` is not a mapping of kinds to settings")
            return {}
        for name, settings in defaults.items():
            if name not in KINDS:
                self.problems.append(f"defaults: unknown kind {name!r}{nearest(str(name), KINDS)}")
                continue
            keys = _keys(KINDS[name].settings)
            for key in settings:
                if key not in keys:
                    self.problems.append(f"defaults of {name}: unknown key {key!r}{nearest(str(key), keys)}")
        return {str(name): dict(settings) for name, settings in defaults.items() if name in KINDS}

    def _check_tables(self, tables: Any) -> None:
        """Rows of tables that are no stages are problems."""
        for name, table in tables.items() if isinstance(tables, dict) else ():
            rows = table.get("rows") if isinstance(table, dict) else None
            for row in rows if isinstance(rows, dict) else ():
                if str(row) not in self.names:
                    told = f"row {row!r} names no stage{nearest(str(row), self.names)}"
                    self.problems.append(f"table '{name}': {told}")

    def _stage(
        self, name: str, given: Any, defaults: Mapping[str, dict[str, Any]], seed: Any
    ) -> StageSettings | None:
        if name in _RESERVED:
            self.problems.append(f"stage '{name}': the name is taken by the run itself")
        if not isinstance(given, dict):
            self.problems.append(f"stage '{name}': its settings are missing; `kind:` is the first of them")
            return None
        kind = given.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            told = "`kind` is missing" if kind is None else f"unknown kind {kind!r}"
            self.problems.append(f"stage '{name}': {told}{nearest(str(kind), KINDS)}")
            return None
        schema = KINDS[kind].settings
        keys = _keys(schema)
        of_kind = {} if name in self.folders else defaults.get(kind, {})
        values = {key: value for key, value in of_kind.items() if key in keys} | given
        if schema.draws(values) and isinstance(seed, int) and not isinstance(seed, bool):
            values.setdefault("seed", derived_seed(seed, kind))
        try:
            return schema.model_validate(self._resolved(name, schema, values))
        except ValidationError as error:
            self.problems += [_told(fault, f"stage '{name}': ", keys) for fault in error.errors()]
            return None

    def _resolved(self, name: str, schema: type[StageSettings], values: dict[str, Any]) -> dict[str, Any]:
        """The settings with their paths made absolute; what names no earlier stage becomes a problem."""
        for key, reference in schema.references().items():
            value = values.get(key)
            who = f"stage '{name}': {key}"
            if isinstance(value, str):
                values[key] = self._refer(name, who, value, reference.to)
            elif isinstance(value, list):
                values[key] = [
                    self._refer(name, who, item, reference.to) if isinstance(item, str) else item
                    for item in value
                ]
        if schema is ModelStage and isinstance(values.get("path"), str):
            values["path"] = self._checkpoint(name, values["path"])
        return values

    def _path(self, name: str, text: str) -> Path:
        """The path that a stage names, relative to the folder of the recipe that has the stage."""
        return Path(os.path.normpath(self.folders.get(name, self.folder) / Path(text).expanduser()))

    def _checkpoint(self, name: str, text: str) -> str:
        """A folder by its whole path; a hub id or a shipped model by its name."""
        path = self._path(name, text)
        if path.is_dir():
            return str(path)
        if text.startswith((".", "/", "~")):
            self.problems.append(f"stage '{name}': path: there is no folder {path}")
        return text

    def _refer(self, name: str, who: str, text: str, to: str) -> str:
        names = self.names
        earlier = names[: names.index(name)]
        if stage_of(text, dict.fromkeys(earlier)) is not None and (to != "model" or "/" not in text):
            return text
        if to == "suite" and "/" not in text and "." not in text and text not in names:
            return text  # a suite that is built in; the evaluation knows which there are
        path = self._path(name, text)
        if to == "data" and is_hub_id(text) and not path.parent.is_dir():
            return text
        if to != "model" and stage_of(text, dict.fromkeys(names)) is None and self._there(path):
            return str(path)
        self.problems.append(f"{who}: {_no_stage(text, to, earlier, names)}")
        return text

    def _there(self, path: Path) -> bool:
        """Whether a file is there, or is named as one and need not be there yet."""
        return path.exists() or (not self.need_files and bool(path.suffix))


def _no_stage(text: str, to: str, earlier: list[str], names: list[str]) -> str:
    stage = text.split("/", 1)[0]
    listed = f"the earlier stages are {', '.join(earlier)}" if earlier else "it is the first stage"
    if stage in names and stage not in earlier:
        return f"{text!r} names a stage that does not come earlier; {listed}"
    if stage in earlier:
        return f"{text!r} is a file of a stage; a model is named by its stage alone, {stage!r}"
    if to == "model":
        return f"{text!r} names no earlier stage{nearest(stage, earlier)}; {listed}"
    return f"{text!r} names neither an earlier stage nor a file{nearest(stage, earlier)}; {listed}"


def _keys(schema: type[StageSettings]) -> list[str]:
    return [key for key in schema.model_fields if key != "kind"]


def _told(fault: Any, who: str, keys: Iterable[str]) -> str:
    """A fault as pydantic found it, in the words of a recipe."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{who}unknown key '{where}'{nearest(where, keys)}"
    if fault["type"] == "missing":
        return f"{who}`{where}` is missing"
    what = str(fault["msg"]).removeprefix("Value error, ")
    what = what[:1].lower() + what[1:]
    return f"{who}{where}: {what}, not {fault['input']!r}" if where else f"{who}{what}"
