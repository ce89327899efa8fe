"""Optimizers as the trainer makes them.

`muon` orthogonalises the momentum of each matrix of the layers (Jordan et al. 2024, "Muon"); embeddings, norms
and biases keep AdamW, at the same rate. It is for models trained from scratch at high rates; AdamW is the
default, and what the papers that dusk follows used.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dusk.train.adamw16 import AdamW16
from dusk.train.muon import BatchedMuon
from dusk.train.settings import TrainSettings


def make_optimizer(
    model: nn.Module, settings: TrainSettings, rates: Mapping[str, float] | None = None, *, fused: bool = True
) -> torch.optim.Optimizer:
    """The optimizer of a run; weight decay falls on matrices alone.

    `rates`: a factor of the learning rate for each parameter that is trained, by name; 1 for all without it.
    """
    groups = _groups(model, settings, rates)
    if settings.optimizer == "muon":
        return _muon(model, settings, groups, fused)
    if settings.optimizer == "adamw-bf16":
        return AdamW16(groups, betas=(settings.beta1, settings.beta2), seed=settings.seed)
    return torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), fused=fused)


def _groups(
    model: nn.Module, settings: TrainSettings, rates: Mapping[str, float] | None
) -> list[dict[str, Any]]:
    """Parameter groups, those of the highest rate first: matrices and tables, then vectors without decay."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    factors = dict.fromkeys(trained, 1.0) if rates is None else rates
    groups = []
    for factor in sorted({factors[name] for name in trained}, reverse=True):
        mine = [p for name, p in trained.items() if factors[name] == factor]
        for params, decay in (
            ([p for p in mine if p.ndim >= 2], settings.weight_decay),
            ([p for p in mine if p.ndim < 2], 0.0),
        ):
            groups.append({"params": params, "lr": settings.learning_rate * factor, "weight_decay": decay})
    return [group for group in groups if group["params"]]


def _muon(
    model: nn.Module, settings: TrainSettings, groups: list[dict[str, Any]], fused: bool
) -> torch.optim.Optimizer:
    """Muon for the matrices of the layers; tables, the head and vectors keep AdamW, without decay."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    tables.add(id(model.get_output_embeddings().weight))  # type: ignore[operator]

    def chosen(hidden: bool) -> list[dict[str, Any]]:
        parts = []
        for group in groups:
            mine = [p for p in group["params"] if (p.ndim == 2 and id(p) not in tables) == hidden]
            decay = settings.weight_decay if hidden else 0.0
            parts.append({"params": mine, "lr": group["lr"], "weight_decay": decay})
        return [part for part in parts if part["params"]]

    betas = (settings.beta1, settings.beta2)
    adamw = torch.optim.AdamW(chosen(False), betas=betas, fused=fused)
    return MuonWithAdamW(BatchedMuon(chosen(True)), adamw)


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that look like one: their parameter groups and states, side by side."""

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.parts = (muon, adamw)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._link()

    def _link(self) -> None:
        """Let the two see the very groups and states that schedules and checkpoints see here."""
        begin = 0
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[begin : begin + count]
            part.state = self.state
            begin += count

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state, and hand it on to both."""
        super().load_state_dict(state_dict)
        self._link()

    def step(self, closure: Callable[[], Tensor] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters."""
        assert closure is None
        for part in self.parts:
            part.step()
