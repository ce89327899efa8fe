"""A recipe's stages put together: its grids expanded, and what it uses of other recipes (`stages_from`).

A recipe that names stages (or grids) of another takes those, with all that they use, as that recipe has them: its
defaults, its paths. So their fingerprints are the other recipe's, and `--reuse` copies what a run of it has made.
Settings of the other's head (`defaults`, `seed`, ...) hold where the recipe gives none.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dusk.errors import RecipeError
from dusk.recipe.grids import expand, named
from dusk.recipe.kinds import KINDS
from dusk.recipe.recipe import stage_of
from dusk.recipe.yaml_file import read_yaml

_OWN = ("name", "description", "stages", "stages_from", "tables")


@dataclass
class Assembled:
    """A recipe's content without grids and with all stages.

    `folders` has, of each stage that was taken from another recipe, the folder that its paths are relative to;
    such a stage has that recipe's defaults merged in. `grids` has the stages of each grid, `problems` what is
    wrong.
    """

    content: dict[str, Any]
    folders: dict[str, Path] = field(default_factory=dict)
    grids: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def stages(self) -> dict[str, Any]:
        """The stages by name."""
        stages: dict[str, Any] = self.content["stages"]
        return stages


def assemble(content: Mapping[Any, Any], folder: Path, chain: Sequence[Path] = ()) -> Assembled:
    """Put the content of a recipe file together; `folder` is the file's, `chain` are the files that led to it."""
    told = content.get("stages_from") or []
    paths = [folder / path for path in ([told] if isinstance(told, str) else told)]
    sources = [_source(path, chain) for path in paths]
    head: dict[Any, Any] = {}
    for source in reversed(sources):
        head |= {key: value for key, value in source.content.items() if key not in _OWN}
    head["defaults"] = _merged([source.content.get("defaults") for source in reversed(sources)], content)
    whole = Assembled({**head, **{key: value for key, value in content.items() if key != "stages_from"}})
    whole.content["defaults"] = head["defaults"]
    raw = content.get("stages")
    if not isinstance(raw, dict):
        return whole
    own = expand(raw)
    whole.grids = {
        grid: rows for source in reversed(sources) for grid, rows in source.grids.items()
    } | own.names
    stages = named(own.stages, whole.grids)
    taken = _taken(stages, sources, whole)
    tables = {name: of.content["tables"][name] for name, of in _asked(raw, own.names, sources)}
    whole.problems += own.problems
    whole.content["stages"] = {**taken, **stages}
    given = content.get("tables")
    if given is None or isinstance(given, dict):
        whole.content["tables"] = {**tables, **own.tables, **(given or {})}
    return whole


def _source(path: Path, chain: Sequence[Path]) -> Assembled:
    """Another recipe, every stage of it with its defaults."""
    if path.resolve() in chain:
        raise RecipeError(f"{path}: `stages_from` leads back to it.", remedy="Take one of them out.")
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict):
        raise RecipeError(f"{path} is not a recipe: it holds no `name:` and `stages:`.")
    source = assemble(content, path.parent, (*chain, path.resolve()))
    if source.problems:
        raise RecipeError(f"{path}: {len(source.problems)} problems", problems=source.problems)
    for name, given in source.stages.items():
        if name not in source.folders and isinstance(given, dict):
            of_kind = (source.content.get("defaults") or {}).get(given.get("kind")) or {}
            source.stages[name] = {**of_kind, **given}
            source.folders[name] = path.parent
    return source


def _merged(others: Sequence[Any], content: Mapping[Any, Any]) -> Any:
    """Defaults by kind, the recipe's own over those of the recipes that it takes stages from."""
    own = content.get("defaults")
    found: dict[Any, Any] = {}
    for defaults in (*others, own):
        if not isinstance(defaults, dict):
            continue
        for kind, settings in defaults.items():
            mixed = isinstance(settings, dict) and isinstance(found.get(kind), dict)
            found[kind] = {**found[kind], **settings} if mixed else settings
    return found if own is None or isinstance(own, dict) else own


def _taken(stages: Mapping[str, Any], sources: Sequence[Assembled], whole: Assembled) -> dict[str, Any]:
    """What the stages use of other recipes, in their order."""
    known: dict[str, Any] = {}
    homes: dict[str, Path] = {}
    differing: set[str] = set()
    for source in sources:
        for name, given in source.stages.items():
            if name in known and _same(known[name], homes[name]) != _same(given, source.folders[name]):
                differing.add(name)
            known.setdefault(name, given)
            homes.setdefault(name, source.folders[name])
    wanted: dict[str, None] = {}
    waiting = [text for given in stages.values() for text in _references(given)]
    while waiting:
        used = stage_of(waiting.pop(), known)
        if used is not None and used not in stages and used not in wanted:
            wanted[used] = None
            waiting += _references(known[used])
    whole.folders |= {name: homes[name] for name in wanted}
    whole.problems += [
        f"stage '{name}' is another one in each recipe of `stages_from`"
        for name in wanted
        if name in differing
    ]
    return {name: given for name, given in known.items() if name in wanted}


def _same(given: Any, folder: Path) -> Any:
    """What makes two stages one: settings without the label, with paths in full."""
    kind = KINDS.get(str(given.get("kind"))) if isinstance(given, dict) else None
    if kind is None:
        return given
    told = {key: value for key, value in given.items() if key != "label"}
    for key in kind.settings.references():
        value = told.get(key)
        if isinstance(value, list):
            told[key] = [_full(text, folder) for text in value]
        elif isinstance(value, str):
            told[key] = _full(value, folder)
    return told


def _full(text: Any, folder: Path) -> Any:
    path = folder / str(text)
    return os.path.normpath(path) if path.exists() else text


def _asked(
    raw: Mapping[Any, Any], own: Mapping[str, Any], sources: Sequence[Assembled]
) -> Iterator[tuple[str, Assembled]]:
    """The grids of other recipes that stages name, which bring their tables with them."""
    for given in raw.values():
        for text in _references(given):
            for source in sources:
                if text in source.grids and text not in own and text in (source.content.get("tables") or {}):
                    yield text, source
                    break


def _references(given: Any) -> list[str]:
    """The texts of a stage that may name others."""
    kind = KINDS.get(str(given.get("kind"))) if isinstance(given, dict) else None
    found: list[str] = []
    for key in kind.settings.references() if kind else ():
        value = given.get(key)
        found += [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    return found
