"""A padded vocabulary: rows of zeros behind the embedding and the output head."""

from collections.abc import Sequence
from dataclasses import replace

from dusk.checkpoint import NewTensor
from dusk.errors import SettingError

_ROWS = ("embed_tokens.weight", "lm_head.weight", "lm_head.bias")


def padded(tensors: Sequence[NewTensor], vocabulary: int, wanted: int) -> list[NewTensor]:
    """The tensors with `wanted` rows where there were `vocabulary`; the new rows are zero.

    Raises `SettingError` for fewer rows than there are.
    """
    if wanted < vocabulary:
        raise SettingError(
            f"The vocabulary has {vocabulary:,} rows and is never cut to {wanted:,}.",
            remedy=f"Give {vocabulary} or more.",
        )
    return [
        replace(tensor, shape=(wanted, *tensor.shape[1:]))
        if tensor.name.endswith(_ROWS) and tensor.shape[0] == vocabulary
        else tensor
        for tensor in tensors
    ]
