"""The tokenizer and the chat template of a model folder, as training needs them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from dusk.data.encode import TextTokenizer
from dusk.data.jinja_template import OWN, ChatTemplate, JinjaTemplate
from dusk.data.templates import SOLAR, TEMPLATES, template
from dusk.errors import CheckpointError, SettingError
from dusk.train.settings import TrainSettings

TEMPLATE_FILE = "chat_template.jinja"
_GENERATION_FILE = "generation_config.json"
_BOS_IN_FRONT = "{{ bos_token }}"
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


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


def template_for(folder: Path, name: str | None = None) -> ChatTemplate:
    """The chat template of that name for the model in `folder`; "tokenizer" is the model's own.

    Without a name it is the model's own where it has one, or else SOLAR's. An own one that is written down in
    `dusk.data.templates` is that one.

    Raises:
        CheckpointError: the model's own is asked for, and it has none.
        SettingError: an unknown name.
    """
    if name is not None and name != OWN:
        return template(name)
    jinja = _own_jinja(folder)
    if jinja is None:
        if name is None:
            return SOLAR
        raise CheckpointError(
            f"{folder}: its tokenizer has no chat template",
            remedy=f"Name one of {', '.join(TEMPLATES)}, or put a {TEMPLATE_FILE} into the folder.",
        )
    plain = jinja.removeprefix(_BOS_IN_FRONT)
    named = {key: text for key in _NAMED if (text := _named_text(folder, key))}
    return next((one for one in TEMPLATES.values() if one.jinja == plain), JinjaTemplate(jinja, named))


def chat_template(turns: ChatTemplate, folder: Path, tokenizer: TextTokenizer) -> str:
    """The jinja that goes with a model tuned in this template: servers get the ids of training from it.

    Training puts BOS in front where the tokenizer does. Servers tokenise what a chat template renders without
    special tokens, so there the template itself has to write it, if it does not already.
    """
    text = _named_text(folder, "bos_token")
    if text is None or tokenizer.bos is None or tokenizer.token_id(text) != tokenizer.bos:
        return turns.jinja
    written = turns.prompt([{"role": "user", "content": "a"}]).startswith(text)
    return turns.jinja if written else _BOS_IN_FRONT + turns.jinja


def add_tokens(
    tokenizer: TextTokenizer, turns: ChatTemplate, model: PreTrainedModel, settings: TrainSettings
) -> None:
    """See to it that what a template wants as single tokens are such, in rows that the embedding has left.

    Their rows, of the output layer too, begin as the mean of the others.

    Raises:
        CheckpointError: the embedding has no row left for them.
        SettingError: the settings do not train the embedding.
    """
    missing = [token for token in turns.tokens if tokenizer.token_id(token) is None]
    if not missing:
        return
    weight = model.get_input_embeddings().weight
    rows = range(tokenizer.size, tokenizer.size + len(missing))
    if rows.stop > weight.shape[0]:
        raise CheckpointError(
            f"the template {turns.name} needs the tokens {' and '.join(missing)}, which are not in the tokenizer, "
            f"and the embedding has no rows left for them: {rows.start:,} of {weight.shape[0]:,} are used",
            remedy=f"Make room with `dusk scale MODEL OUT --layers 0-{model.config.num_hidden_layers - 1} "
            f"--pad-vocabulary {-(-rows.stop // 64) * 64}`, or use another --template.",
        )
    if settings.lora_rank is not None or settings.train == "new":
        raise SettingError(
            f"the template {turns.name} adds the tokens {' and '.join(missing)}, and with adapters, or new layers "
            "alone, nothing would train their rows of the embedding",
            remedy="Tune in this template with all weights first, or use another --template.",
        )
    tokenizer.add_special(missing)
    output = model.get_output_embeddings()
    with torch.no_grad():
        for matrix in (weight, *([] if output is None or output.weight is weight else [output.weight])):
            matrix[rows.start : rows.stop] = matrix[: rows.start].float().mean(dim=0).to(matrix.dtype)


def save_added_tokens(folder: Path, tokenizer: TextTokenizer) -> None:
    """Write tokenizer.json again where tokens were added; else it stays as it is, byte for byte."""
    if tokenizer.added:
        tokenizer.save(folder / "tokenizer.json")


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


def _own_jinja(folder: Path) -> str | None:
    """The jinja of a model's chat template: a file of its own, or in tokenizer_config.json."""
    file = folder / TEMPLATE_FILE
    if file.exists():
        return file.read_text(encoding="utf-8")
    found = _read(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several by name
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


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
