"""Merges written out in float64 with torch, and what the nearest value of a type is."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

Tensors = dict[str, torch.Tensor]


def tensors(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def mean64(models: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
    return {
        name: sum(w * m[name].double() for w, m in zip(weights, models, strict=True)) / sum(weights)
        for name in models[0]
    }


def slerp64(x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    """mergekit's behaviour in float64: lerp where |cos| > 0.9995, eps 1e-8 for lengths."""
    a, b = x.double().numpy(), y.double().numpy()
    unit_a = a / np.linalg.norm(a) if np.linalg.norm(a) > 1e-8 else a
    unit_b = b / np.linalg.norm(b) if np.linalg.norm(b) > 1e-8 else b
    cosine = float((unit_a * unit_b).sum())
    if abs(cosine) > 0.9995:
        return torch.from_numpy((1 - t) * a + t * b)
    theta = math.acos(cosine)
    return torch.from_numpy(
        math.sin((1 - t) * theta) / math.sin(theta) * a + math.sin(t * theta) / math.sin(theta) * b
    )


def nearest(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 in one rounding to nearest even; torch rounds to float32 on the way.

    Rounded to odd there (inexact: the neighbour whose last bit is set), the second rounding is the only one.
    Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums", section 2.
    """
    if dtype in {torch.float32, torch.float64}:
        return exact.to(dtype)
    near = exact.float()
    inexact, past = near.double() != exact, near.double().abs() > exact.abs()
    bits = near.view(torch.int32) - (inexact & past).int() | inexact.int()
    return bits.view(torch.float32).to(dtype)


def beyond(found: torch.Tensor, best: torch.Tensor, exact: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    """Where `found` is further from the exact value than `best`, by more than float64's own rounding."""
    own = 4 * 2.0**-53 * terms
    return (found.double() - exact).abs() > (best.double() - exact).abs() + own


def sizes_of_terms(models: Sequence[Tensors], name: str) -> torch.Tensor:
    return sum((model[name].double().abs() for model in models), torch.tensor(0.0))


def assert_close(found: Tensors, expected: Tensors, models: Sequence[Tensors]) -> None:
    """Every value is the nearest that its type has."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        best, terms = nearest(expected[name], value.dtype), sizes_of_terms(models, name)
        assert not beyond(value, best, expected[name], terms).any(), name


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x.double() * y.double()).sum() / (x.double().norm() * y.double().norm()).clamp_min(1e-300))


def layer_of(name: str) -> int | None:
    return int(name.split(".")[2]) if "layers" in name else None
