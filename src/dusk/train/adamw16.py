"""AdamW with its states in bf16, and weights that may be bf16 too: what fits 10.7B parameters into one large GPU.

Rounding to the nearest would lose both: an average in bf16 stops moving once a step is below half of its last
place, and so does a weight, whose updates at the rates of alignment are far smaller than that. Stochastic rounding
keeps them in the mean: a value goes up or down with the odds of its distance to either neighbour (Zamirai et al.
2020, "Revisiting BFloat16 Training"). The odds are drawn from the seed, the step and the parameter, so that a run
that is continued draws the same.

Gradients need not all exist at once, either: each parameter can be updated in the backward pass, as soon as its
gradient is whole (Lv et al. 2023, "Full Parameter Fine-tuning for Large Language Models with Limited Resources").
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from dusk.train.distribution import rank

_LOW_BITS = 1 << 16
_SLICE = 1 << 24  # elements
_AVERAGES = ("exp_avg", "exp_avg_sq")


class AdamW16(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019) with both averages in bf16, rounded stochastically like bf16 weights."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        betas: tuple[float, float],
        seed: int,
        lr: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.seed = seed
        self._hooks: list[RemovableHandle] = []
        self._squares: list[Tensor] = []

    def update_in_backward(self) -> None:
        """From now on each backward pass is an update, and leaves no gradient, until `release`."""
        for index, group in enumerate(self.param_groups):
            for place, parameter in enumerate(group["params"]):
                number = 1 + place + sum(len(before["params"]) for before in self.param_groups[:index])
                hook = partial(self._update_at_once, index=index, number=number)
                self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))

    def release(self) -> None:
        """Leaves the parameters as plain ones, for other optimizers."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def take_norm(self) -> Tensor:
        """The norm of all gradients that backward passes have used up since it was last taken."""
        norm = torch.stack(self._squares).sum().sqrt() if self._squares else torch.zeros(())
        self._squares.clear()
        return norm

    @torch.no_grad()
    def _update_at_once(self, parameter: Tensor, *, index: int, number: int) -> None:
        assert parameter.grad is not None
        self._squares.append(parameter.grad.float().square().sum())
        self._update(parameter, parameter.grad, self.param_groups[index], number)
        parameter.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's own, which casts the averages to the type of their parameters, and back."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in _AVERAGES:
                state[name] = state[name].to(torch.bfloat16)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient: none, where backward passes use them up."""
        assert closure is None
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group, number)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any], number: int) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = 0
            for name in _AVERAGES:  # in shards like the weight, so that checkpoints know of them
                state[name] = torch.zeros_like(weight, dtype=torch.bfloat16)
        state["step"] += 1
        source = torch.Generator(weight.device).manual_seed(_mixed(self.seed, state["step"], number, rank()))
        for part in _slices(*map(_local, (weight, gradient, *(state[name] for name in _AVERAGES)))):
            _update_slice(*part, group, state["step"], source)


Part = tuple[Tensor, Tensor, Tensor, Tensor]


def _slices(weight: Tensor, gradient: Tensor, average: Tensor, average_square: Tensor) -> list[Part]:
    """Views that together are the tensors: what is computed of one in float32 takes half a gigabyte at most."""
    whole = weight, gradient, average, average_square
    if not all(tensor.is_contiguous() for tensor in whole):
        return [whole]
    return list(zip(*(tensor.view(-1).split(_SLICE) for tensor in whole), strict=True))


def _update_slice(
    weight: Tensor,
    gradient: Tensor,
    average: Tensor,
    average_square: Tensor,
    group: dict[str, Any],
    step: int,
    source: torch.Generator,
) -> None:
    beta1, beta2 = group["betas"]
    slope = gradient.float()
    mean = average.float().lerp_(slope, 1 - beta1)
    square = average_square.float().mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
    _keep(average, mean, source)
    _keep(average_square, square, source)
    size = group["lr"] / (1 - beta1**step)
    change = mean.mul_(size).div_(square.sqrt_().div_(math.sqrt(1 - beta2**step)).add_(group["eps"]))
    _keep(weight, weight.float().mul(1 - group["lr"] * group["weight_decay"]).sub_(change), source)


def _mixed(*numbers: int) -> int:
    """A seed of several numbers."""
    total = 0
    for number in numbers:
        total = (total * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return total


def rounded_stochastically(values: Tensor, source: torch.Generator) -> Tensor:
    """float32 as bf16: up or down at random, right in the mean."""
    noise = torch.randint(_LOW_BITS, values.shape, generator=source, device=values.device, dtype=torch.int32)
    bits = values.contiguous().view(torch.int32)
    return ((bits + noise) & -_LOW_BITS).view(torch.float32).to(torch.bfloat16)


def _keep(target: Tensor, values: Tensor, source: torch.Generator) -> None:
    """`values` (float32) into `target`, rounded stochastically where it is bf16."""
    target.copy_(rounded_stochastically(values, source) if target.dtype == torch.bfloat16 else values)


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that lies in shards."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
