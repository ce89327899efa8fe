"""The model card: README.md written from `dusk.json`, with the fields that the hub reads."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dusk.checkpoint.folder import CONFIG_FILE, read_json_object
from dusk.checkpoint.manifest import Manifest, Source, read_manifest
from dusk.checkpoint.model_index import model_index
from dusk.checkpoint.shipped import names_shipped
from dusk.errors import CheckpointError
from dusk.layers import LayerMap

CARD_FILE = "README.md"
UNKNOWN_LICENSE = "unknown"
_RELATIONS = {"merge": "merge"}
_TAGS = {"scale": ["depth-up-scaling"], "merge": ["merge"], "align": ["dpo"], "sft": ["sft"]}
_LICENSE = re.compile(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", re.MULTILINE)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_HUB_CACHE = re.compile(r"/datasets--([\w.-]+?)--([\w.-]+)/snapshots/", re.ASCII)
_DATA_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")  # of inputs that are no models


def write_card(folder: Path) -> Path:
    """Writes the model card of a folder that has a `dusk.json`; raises `CheckpointError` for one without.

    The card names the base models, their licence where their card or config states one and all agree,
    the data sets of the hub, the layer map, the settings and the results.
    """
    file = folder / CARD_FILE
    file.write_text(card_text(folder), encoding="utf-8")
    return file


def card_text(folder: Path, *, scores: Path | None = None, title: str | None = None) -> str:
    """The card of a folder, with the scores that a results file of `dusk eval` has of it.

    Raises:
        CheckpointError: the folder has no `dusk.json`.
        DataError: the results file has no scores of this folder.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise CheckpointError(f"{folder} has no dusk.json to write a model card from.")
    called = title or folder.name.removesuffix(".partial")
    return render_card(manifest, called, model_index(scores, folder, called) if scores is not None else [])


def render_card(manifest: Manifest, title: str, scores: Sequence[Mapping[str, Any]] = ()) -> str:
    """The text of the card; `scores` is its `model-index`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # lazy: only cards need it

    environment = Environment(
        loader=PackageLoader("dusk.checkpoint", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # markdown; values pass through the filters below
    )
    environment.filters |= {"code": _code, "shown_name": _shown_name, "cell": _cell, "tojson": json.dumps}
    layer_map = LayerMap.from_json(manifest.layer_map) if manifest.layer_map else None
    models = tuple(source for source in manifest.inputs if not source.name.endswith(_DATA_SUFFIXES))
    verb = manifest.command.split(" ")[0]
    text = environment.get_template("card.md.jinja").render(
        manifest=manifest,
        title=title,
        license=_common_license(models),
        base_models=sorted({name for source in models if (name := _model_name(source))}),
        relation=_RELATIONS.get(verb, "finetune"),
        tags=_TAGS.get(verb, []),
        datasets=sorted(hub_datasets(manifest)),
        model_index=_yaml({"model-index": list(scores)}) if scores else "",
        seams=layer_map.seams if layer_map else (),
        fresh=verb == "scale",
        identities=_identities(layer_map),
        tables={"Settings": manifest.settings, "Results": manifest.results},
    )
    spaced = re.sub(r"\n(?=## )", "\n\n", text)
    return re.sub(r"\n{3,}", "\n\n", spaced).strip() + "\n"


def read_license(folder: Path) -> str | None:
    """The licence that a model's card or config states."""
    card = folder / CARD_FILE
    if card.is_file():
        front, closed = _front_matter(card.read_text(encoding="utf-8", errors="replace"))
        match = _LICENSE.search(front) if closed else None
        if match:
            return match[1]
    if (folder / CONFIG_FILE).is_file():
        stated = read_json_object(folder / CONFIG_FILE).get("license")
        return stated if isinstance(stated, str) else None
    return None


def file_license(file: Path) -> str:
    """The licence that the folder of a data file states, in its `dusk.json` or in its card; else unknown."""
    folder = file.absolute().parent
    manifest = read_manifest(folder)
    stated = list(manifest.results.get("licenses", [])) if manifest is not None else []
    return " and ".join(stated) or read_license(folder) or UNKNOWN_LICENSE


def data_licenses(inputs: Iterable[Source]) -> set[str]:
    """The licences of the data among a command's inputs."""
    return {file_license(Path(one.path)) for one in inputs if one.name.endswith(_DATA_SUFFIXES)}


def hub_datasets(manifest: Manifest) -> set[str]:
    """The data sets of the hub that a model was trained on, through the folders that dusk made of them."""
    found: set[str] = set()
    for source in manifest.inputs:
        path = Path(source.path)
        if source.name.endswith(_DATA_SUFFIXES):
            match = _HUB_CACHE.search(path.as_posix())
            made_from = None if match else read_manifest(path.parent)
            found |= {f"{match[1]}/{match[2]}"} if match else set()
            found |= hub_datasets(made_from) if made_from is not None else set()
    return found


def _yaml(value: Mapping[str, Any]) -> str:
    import yaml  # lazy: only cards with scores need it

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return text


def _front_matter(card: str) -> tuple[str, bool]:
    if not card.startswith("---\n"):
        return "", False
    front, mark, _ = card[4:].partition("\n---")
    return front, bool(mark)


def _common_license(inputs: tuple[Source, ...]) -> str | None:
    stated = {read_license(Path(source.path)) for source in inputs}
    return stated.pop() if len(stated) == 1 else None


def _model_name(source: Source) -> str | None:
    """The name for `base_model`: a hub id without its revision, or the last part of a path.

    None for a model that comes with dusk, which the hub does not have under any name.
    """
    if names_shipped(source.name):
        return None
    name = source.name.partition("@")[0]
    if name.count("/") != 1 or name.startswith((".", "/")):
        name = Path(source.path).name
    return name if _HUB_NAME.fullmatch(name) else None


def _shown_name(name: str) -> str:
    """A card is published: of a path on this machine it shows the last part."""
    return name if name.count("/") == 1 and not name.startswith(("/", ".", "~")) else Path(name).name or name


def _identities(layer_map: LayerMap | None) -> str:
    fresh = layer_map.fresh if layer_map else ()
    return ", ".join(str(i) for i, flag in enumerate(fresh) if flag)


def _code(value: object) -> str:
    return "`" + str(value).replace("`", "'") + "`"


def _cell(value: object) -> str:
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, Mapping | list | tuple):
        text = json.dumps(_rounded(value), ensure_ascii=False)
    else:
        text = str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
