"""The arithmetic of forward passes: float32, or bf16 under autocast with float32 weights."""

import torch

from dusk.train.settings import Precision


def device_of_training() -> torch.device:
    """The first GPU, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computing(precision: Precision | None, device: torch.device) -> torch.autocast:
    """A context for forward passes; None means bf16 on a GPU and fp32 elsewhere.

    One home for policy, reference and held-out passes: an answer's log-probability in fp32 against its
    reference in bf16 would differ before the first step.
    """
    chosen = precision or ("bf16" if device.type == "cuda" else "fp32")
    return torch.autocast(device.type, torch.bfloat16, enabled=chosen == "bf16")
