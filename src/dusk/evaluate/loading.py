"""A model folder as the model that a run asks, by its backend; torch and vLLM are imported when one is loaded."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dusk.errors import InputError

if TYPE_CHECKING:
    from dusk.evaluate.watched import WatchedModel


def require_vllm() -> None:
    """Raises `InputError` where vLLM is not installed."""
    if find_spec("vllm") is None:
        raise _absent("vllm")


def load_by_transformers(
    folder: Path, *, device: str, dtype: str, batch_size: int | str | None, add_bos_token: bool | None
) -> "WatchedModel":
    """See `model.load_model`."""
    from dusk.evaluate import harness, model

    with harness.quiet(offline=True):
        loaded = model.load_model(folder, device=device, dtype=dtype, batch_size=batch_size)
        loaded.add_bos_token = add_bos_token
    return loaded


def load_by_vllm(
    folder: Path, *, device: str, dtype: str, batch_size: int | str | None, add_bos_token: bool | None
) -> "WatchedModel":
    """See `vllm_model.load_vllm`; raises `InputError` where vLLM, or what it needs, is not installed."""
    from dusk.evaluate import harness

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # where its processes tell why they ended
    with harness.quiet(offline=True):
        try:
            from dusk.evaluate.vllm_model import load_vllm
        except ModuleNotFoundError as error:
            raise _absent(str(error.name)) from error
        return load_vllm(
            folder, device=device, dtype=dtype, batch_size=batch_size, add_bos_token=add_bos_token
        )


def _absent(package: str) -> InputError:
    return InputError(
        f"backend vllm: {package} is not installed", remedy="pip install vllm, or leave --backend out."
    )
