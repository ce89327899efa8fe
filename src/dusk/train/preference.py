"""The preference objective: direct preference optimization on packed pairs."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from dusk.train.batch import Batch
from dusk.train.loss import IGNORED, log_probabilities
from dusk.train.objectives import hidden_states

PAIR, CHOSEN, REJECTED = 3, 1, 2
"""Of the documents of a pair (prompt, chosen, rejected): how many, and which are the answers."""


def preference_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) of each pair (Rafailov et al. 2023, equation 7).

    chosen, rejected (pairs,): log pi(y|x) - log pi_ref(y|x) of the two answers, in nats.
    """
    return -logsigmoid(beta * (chosen - rejected))


class Preference:
    """DPO against fixed reference log-probabilities.

    `reference` (pairs, 2): log pi_ref of the chosen and the rejected answer of each pair of the store, in nats.
    Prompts are not trained, so the sums run over the answers alone.
    """

    def __init__(self, reference: npt.NDArray[np.float64], beta: float) -> None:
        self.reference = torch.from_numpy(reference)
        self.beta = beta

    def weight(self, batch: Batch) -> int:
        """Pairs."""
        return int((batch["documents"] % PAIR == CHOSEN).sum())

    def __call__(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed loss, and the sums of the metrics that users of DPO know."""
        logs, numbers = answer_log_probabilities(model, batch), batch["documents"]
        chosen, rejected = logs[numbers % PAIR == CHOSEN], logs[numbers % PAIR == REJECTED]
        pairs = numbers[numbers % PAIR == CHOSEN] // PAIR
        by_chosen, by_rejected = self.reference.to(logs.device)[pairs].to(logs.dtype).unbind(1)
        losses = preference_losses(chosen - by_chosen, rejected - by_rejected, self.beta)
        better, worse = (
            self.beta * (chosen - by_chosen).detach(),
            self.beta * (rejected - by_rejected).detach(),
        )
        return losses.sum(), {
            "rewards/chosen": better.sum(),
            "rewards/rejected": worse.sum(),
            "rewards/margins": (better - worse).sum(),
            "rewards/accuracies": (better > worse).sum(),
            "logps/chosen": chosen.detach().sum(),
            "logps/rejected": rejected.detach().sum(),
        }


def answer_log_probabilities(model: PreTrainedModel, batch: Batch) -> Tensor:
    """log p of the trained tokens of each document of a packed batch, in nats, (documents,)."""
    labels = batch["labels"][0]
    kept = labels != IGNORED
    logs = log_probabilities(
        hidden_states(model, batch)[kept], model.get_output_embeddings().weight, labels[kept]
    )
    index = torch.bucketize(torch.nonzero(kept)[:, 0], batch["boundaries"][1:], right=True)
    return logs.new_zeros(len(batch["documents"])).index_add(0, index, logs)
