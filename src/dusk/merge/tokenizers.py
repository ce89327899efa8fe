"""Do models read text the same way? Weights of different tokens have no mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dusk.checkpoint import Checkpoint
from dusk.checkpoint.folder import read_json_object
from dusk.checkpoint.header import shown
from dusk.errors import CheckpointError

_FAST, _SENTENCEPIECE, _SETTINGS = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
_SPLITTING = ("normalizer", "pre_tokenizer")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def require_same_tokenizer(models: Sequence[Checkpoint]) -> list[str]:
    """Raises `CheckpointError` that names the differing tokens; returns warnings of smaller differences."""
    first, warnings = models[0].path, []
    for other in (model.path for model in models[1:]):
        problems = _differences(first, other)
        if problems:
            raise CheckpointError(
                f"{first} and {other} have different tokenizers.",
                problems=shown(problems),
                remedy="Merge models of one tokenizer: fine-tunes of one base have it.",
            )
        warnings += _warnings(first, other)
    return warnings


def vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of a tokenizer.json and their ids, the added ones included."""
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocab, list):  # Unigram: pairs of token and score
        vocab = {pair[0]: index for index, pair in enumerate(vocab)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}
    return {**vocab, **added}


def _same_bytes(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def _differences(first: Path, other: Path) -> list[str]:
    if (first / _FAST).is_file() and (other / _FAST).is_file():
        if _same_bytes(first / _FAST, other / _FAST):
            return []
        return _json_differences(read_json_object(first / _FAST), read_json_object(other / _FAST))
    if (first / _SENTENCEPIECE).is_file() and (other / _SENTENCEPIECE).is_file():
        same = _same_bytes(first / _SENTENCEPIECE, other / _SENTENCEPIECE)
        return [] if same else [f"{_SENTENCEPIECE} differs"]
    return []


def _json_differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    ours, theirs = vocabulary(first), vocabulary(other)
    names = sorted(ours.keys() | theirs.keys(), key=lambda token: ours.get(token, theirs.get(token, 0)))
    problems = [
        f"{token!r} is {ours.get(token, 'absent')} in the first, {theirs.get(token, 'absent')} in the other"
        for token in names
        if ours.get(token) != theirs.get(token)
    ]
    problems += [f"their {part} differ" for part in _SPLITTING if first.get(part) != other.get(part)]
    if _merges(first) != _merges(other):
        problems.append("their merges differ")
    return problems


def _merges(tokenizer: Mapping[str, Any]) -> list[str]:
    """The merges as text: newer versions of tokenizers write pairs, older ones a space between."""
    merges = (tokenizer.get("model") or {}).get("merges") or []
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _warnings(first: Path, other: Path) -> list[str]:
    missing = [
        path for path in (first, other) if not any((path / n).is_file() for n in (_FAST, _SENTENCEPIECE))
    ]
    if missing:
        return [f"{missing[0]} has no tokenizer to compare."]
    if not ((first / _SETTINGS).is_file() and (other / _SETTINGS).is_file()):
        return []
    ours, theirs = read_json_object(first / _SETTINGS), read_json_object(other / _SETTINGS)
    return [
        f"{other} has {key} {theirs.get(key)!r}; the merge keeps {ours.get(key)!r}."
        for key in (*_SPECIAL, "chat_template")
        if ours.get(key) != theirs.get(key)
    ]
