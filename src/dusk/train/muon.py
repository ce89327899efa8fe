"""Muon (Jordan et al. 2024), its Newton-Schulz iterations on all matrices of one shape at once.

torch's own takes matrix by matrix; those of a small model are so small that the calls cost more than the
products. The updates are the same, bit for bit.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

_ELEMENTS = 1 << 22  # that are orthogonalised together: larger matrices keep a processor busy alone


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with its settings, states and updates, faster on many small matrices."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient; shared out ones as torch makes it."""
        if any(isinstance(p, DTensor) for group in self.param_groups for p in group["params"]):
            super().step(closure)  # type: ignore[no-untyped-call]
            return
        assert closure is None
        for group in self.param_groups:
            for alike in _of_one_shape([p for p in group["params"] if p.grad is not None]):
                self._update(alike, group)

    def _update(self, alike: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [gradient for p in alike if (gradient := p.grad) is not None]
        momenta = [self._momentum(p) for p in alike]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        directions = orthogonalised(
            torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        rows, columns = alike[0].shape
        rate = float(group["lr"]) * math.sqrt(max(1, rows / columns))
        torch._foreach_mul_(alike, 1 - float(group["lr"]) * group["weight_decay"])
        torch._foreach_add_(alike, directions.unbind(), alpha=-rate)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def _of_one_shape(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one shape and type, as many at a time as are worth it."""
    by_shape: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        by_shape.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
    for members in by_shape.values():
        count = max(1, _ELEMENTS // members[0].numel())
        yield from (members[begin : begin + count] for begin in range(0, len(members), count))


def orthogonalised(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, smallest: float
) -> Tensor:
    """What `steps` Newton-Schulz iterations make of matrices (B, M, N): about U V^T of each, in bf16."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=smallest)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
