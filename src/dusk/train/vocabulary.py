"""The tokenizer and the chat template of a model folder, as training needs them."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from dusk.data.encode import TextTokenizer
from dusk.data.templates import TEMPLATES, Template
from dusk.errors import CheckpointError

TEMPLATE_FILE = "chat_template.jinja"
_GENERATION_FILE = "generation_config.json"
_BOS_IN_FRONT = "{{ bos_token }}"


def load_tokenizer(folder: Path, model: PreTrainedModel) -> TextTokenizer:
    """The folder's fast tokenizer, with the id that ends a text.

    Raises:
        CheckpointError: no tokenizer.json, no end-of-text token, or more tokens than the model has.
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        raise CheckpointError(
            f"{folder} has no tokenizer.json",
            remedy="Put the tokenizer of the base model into the folder.",
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more particular
        raise CheckpointError(f"{file} is no tokenizer: {error}") from error
    highest = max(tokenizer.get_vocab().values(), default=-1)
    rows = model.get_input_embeddings().weight.shape[0]
    if highest >= rows:
        raise CheckpointError(
            f"{folder}: the tokenizer has ids up to {highest:,}, the model's embedding {rows:,} rows",
            remedy="They do not belong together: use the tokenizer that the model was trained with.",
        )
    return TextTokenizer(tokenizer, eos=_end_of_text(folder, tokenizer, model))


def own_template(folder: Path) -> str:
    """The name of the chat template that a model was tuned with; "solar" where it has none of ours."""
    file = folder / TEMPLATE_FILE
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    plain = text.removeprefix(_BOS_IN_FRONT)
    return next((name for name, template in TEMPLATES.items() if template.jinja == plain), "solar")


def chat_template(template: Template, folder: Path, tokenizer: TextTokenizer) -> str:
    """The jinja that goes with a model tuned in this template: servers get the ids of training from it.

    Training puts BOS in front where the tokenizer does. Servers tokenise what a chat template renders without
    special tokens, so there the template itself has to write it.
    """
    bos = _named_token(folder, "bos_token", tokenizer)
    return (_BOS_IN_FRONT if tokenizer.bos is not None and bos == tokenizer.bos else "") + template.jinja


def stop_at(folder: Path, tokenizer: TextTokenizer) -> None:
    """See to it that generation with the model in `folder` stops at the tokenizer's EOS, and can pad.

    Padding is the tokenizer's own, or EOS where it has none. Other settings stay as they are.
    """
    file, eos = folder / _GENERATION_FILE, tokenizer.eos
    held = _read(file if file.exists() else folder / "config.json")
    named, pad = held.get("eos_token_id"), held.get("pad_token_id")
    known = named if isinstance(named, list) else [named] if named is not None else []
    if eos in known and pad is not None:
        return
    stops = known if eos in known else [*known, eos]
    if pad is None:
        own = _named_token(folder, "pad_token", tokenizer)
        pad = eos if own is None else own
    changes = {"eos_token_id": stops[0] if len(stops) == 1 else stops, "pad_token_id": pad}
    file.write_text(json.dumps(_read(file) | changes, indent=2) + "\n", encoding="utf-8")


def _end_of_text(folder: Path, tokenizer: Tokenizer, model: PreTrainedModel) -> int:
    """The id of the end-of-text token, from tokenizer_config.json or else the model's config."""
    text = _named_text(folder, "eos_token")
    found = tokenizer.token_to_id(text) if text else model.config.eos_token_id
    found = found[0] if isinstance(found, list) else found
    if found is None:
        fault = f"the end-of-text token {text!r} is not in its tokenizer" if text else "no end-of-text token"
        raise CheckpointError(
            f"{folder}: {fault}", remedy="Name the token as `eos_token` in tokenizer_config.json."
        )
    return int(found)


def _named_token(folder: Path, name: str, tokenizer: TextTokenizer) -> int | None:
    """The id of a token that tokenizer_config.json names, if it names one that there is."""
    text = _named_text(folder, name)
    return tokenizer.token_id(text) if text else None


def _named_text(folder: Path, name: str) -> str | None:
    named = _read(folder / "tokenizer_config.json").get(name)
    text = named.get("content") if isinstance(named, dict) else named
    return str(text) if text else None


def _read(file: Path) -> dict[str, Any]:
    """A JSON file's object, empty where there is no file."""
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON: {error}") from error
    return found if isinstance(found, dict) else {}
