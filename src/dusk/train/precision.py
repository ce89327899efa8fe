"""The arithmetic of forward passes: float32, or bf16 under autocast with float32 weights."""

import torch

from dusk.train.settings import Precision


def device_of_training() -> torch.device:
    """The GPU of this rank, or the first; else the processor."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def computing(precision: Precision | None, device: torch.device) -> torch.autocast:
    """A context for forward passes.

    One home for policy, reference and held-out passes: an answer's log-probability in fp32 against its
    reference in bf16 would differ before the first step.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bf16(precision, device))


def computes_in_bf16(precision: Precision | None, device: torch.device) -> bool:
    """Whether products are made in bf16; None means yes on a GPU."""
    return (precision or ("bf16" if device.type == "cuda" else "fp32")) == "bf16"
