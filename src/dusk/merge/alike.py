"""Can these models be merged? Names, shapes and the settings that give the weights their meaning."""

from collections.abc import Mapping, Sequence

from dusk.checkpoint import Checkpoint, TensorEntry
from dusk.checkpoint.expected import HEAD, has_redundant_head
from dusk.checkpoint.header import shown
from dusk.errors import CheckpointError
from dusk.merge.floats import STORED

_MEANING = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
            "tie_word_embeddings", "layer_types")  # fmt: skip
_INCIDENTAL = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "architectures"}


def require_alike(models: Sequence[Checkpoint]) -> list[str]:
    """Raises `CheckpointError` with every mismatch; returns warnings of settings that differ.

    The first model's config is the one that the merge keeps.
    """
    first, warnings = models[0], []
    for other in models[1:]:
        problems = _setting_mismatches(first, other) + _tensor_mismatches(first, other)
        if problems:
            raise CheckpointError(
                f"{first.path} and {other.path} cannot be merged: they are different models.",
                problems=shown(problems),
                remedy="Merge models of one architecture and size, such as fine-tunes of one base.",
            )
        warnings += _setting_warnings(first, other) + _type_warnings(first, other)
    return warnings


def merged_tensors(model: Checkpoint) -> Mapping[str, TensorEntry]:
    """The tensors that a merge combines: without a head that is stored although it is the embedding."""
    if not has_redundant_head(model.layout.scope(model.config), model.tensors):
        return model.tensors
    return {name: entry for name, entry in model.tensors.items() if name != HEAD}


def _tensor_mismatches(first: Checkpoint, other: Checkpoint) -> list[str]:
    ours, theirs = merged_tensors(first), merged_tensors(other)
    problems = [f"{name} is only in {first.path}" for name in ours if name not in theirs]
    problems += [f"{name} is only in {other.path}" for name in theirs if name not in ours]
    for name in ours.keys() & theirs.keys():
        a, b = ours[name], theirs[name]
        if a.shape != b.shape:
            problems.append(f"{name} has shape {a.shape} in {first.path}, {b.shape} in {other.path}")
        elif a.dtype != b.dtype and not {a.dtype, b.dtype} <= STORED.keys():
            problems.append(f"{name} is {a.dtype} in {first.path}, {b.dtype} in {other.path}")
    return sorted(problems)


def _setting_mismatches(first: Checkpoint, other: Checkpoint) -> list[str]:
    ours, theirs = first.layout.scope(first.config), other.layout.scope(other.config)
    return [
        f"{key} is {ours[key]!r} in {first.path}, {theirs[key]!r} in {other.path}"
        for key in _MEANING
        if ours.get(key) is not None and theirs.get(key) is not None and ours[key] != theirs[key]
    ]


def _setting_warnings(first: Checkpoint, other: Checkpoint) -> list[str]:
    keys = sorted((first.config.keys() | other.config.keys()) - _INCIDENTAL)
    differing = [key for key in keys if first.config.get(key) != other.config.get(key)]
    return [
        f"{other.path} has {key} {other.config.get(key)!r}; the merge keeps {first.config.get(key)!r}."
        for key in differing
    ]


def _type_warnings(first: Checkpoint, other: Checkpoint) -> list[str]:
    differing = [
        name for name, entry in merged_tensors(first).items() if entry.dtype != other.tensors[name].dtype
    ]
    if not differing:
        return []
    return [f"{len(differing)} tensors of {other.path} have other types; the merge keeps the first's."]
