"""Where a model runs, and in which type."""

import torch

from dusk.errors import SettingError


def choose_device(device: str | None) -> str:
    """The device asked for, or the GPU where there is one; raises `SettingError` for one that is not here."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        known = device.partition(":")[0] in ("cpu", "cuda", "mps")  # of others torch tells all its kinds
        why = f": {str(error).partition(chr(10))[0]}" if known else ""
        raise SettingError(
            f"device {device}: not on this machine{why}", remedy="Use cpu, cuda, cuda:N or mps."
        ) from error
    return device


def check_dtype(dtype: str) -> None:
    """Raises `SettingError` for what is neither "auto" nor a floating type of torch's."""
    found = getattr(torch, dtype, None)
    if dtype != "auto" and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise SettingError(
            f"dtype {dtype}: no type to compute in", remedy="Use auto, float32, bfloat16 or float16."
        )
