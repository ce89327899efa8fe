"""Optimizers as the trainer makes them.

`muon` orthogonalises the momentum of each matrix of the layers (Jordan et al. 2024, "Muon"); embeddings, norms
and biases keep AdamW, at the same rate. It is for models trained from scratch at high rates; AdamW is the
default, and what the papers that dusk follows used.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dusk.train.settings import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings, *, fused: bool = True) -> torch.optim.Optimizer:
    """The optimizer of a run; weight decay falls on matrices alone."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    tables = [p for p in trained if p.ndim >= 2 and id(p) in embeddings]
    vectors = [p for p in trained if p.ndim < 2]
    shared: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "fused": fused,
    }
    if settings.optimizer == "muon":
        head = model.get_output_embeddings().weight  # type: ignore[operator]
        hidden = [p for p in matrices if p is not head and p.ndim == 2]
        others = [p for p in [*matrices, *tables, *vectors] if not any(p is q for q in hidden)]
        return MuonWithAdamW(
            torch.optim.Muon(hidden, lr=settings.learning_rate, weight_decay=settings.weight_decay),
            torch.optim.AdamW(others, **shared, weight_decay=0.0),
        )
    decayed = {"params": [*matrices, *tables], "weight_decay": settings.weight_decay}
    return torch.optim.AdamW([decayed, {"params": vectors, "weight_decay": 0.0}], **shared)


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
