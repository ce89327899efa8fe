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


def preference_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) of each pair (Rafailov et al. 2023, equation 7).

    chosen, rejected (pairs,): log pi(y|x) - log pi_ref(y|x) of the two answers, in nats.
    """
    return -logsigmoid(beta * (chosen - rejected))


class Preference:
    """DPO against fixed reference log-probabilities.

    `reference` (D,): log pi_ref of the trained tokens of each document of the store, in nats; documents 2i and
    2i + 1 are the chosen and the rejected answer of pair i. Prompts are not trained, so both sums run over the
    answers alone.
    """

    def __init__(self, reference: npt.NDArray[np.float64], beta: float) -> None:
        self.reference = torch.from_numpy(reference)
        self.beta = beta

    def weight(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["documents"]) // 2

    def __call__(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed loss, and the sums of the metrics that users of DPO know."""
        policy = answer_log_probabilities(model, batch)
        reference = self.reference.to(policy.device)[batch["documents"]].to(policy.dtype)
        gains = policy - reference
        losses = preference_losses(gains[0::2], gains[1::2], self.beta)
        rewards = self.beta * gains.detach()
        margins = rewards[0::2] - rewards[1::2]
        return losses.sum(), {
            "rewards/chosen": rewards[0::2].sum(),
            "rewards/rejected": rewards[1::2].sum(),
            "rewards/margins": margins.sum(),
            "rewards/accuracies": (margins > 0).sum(),
            "logps/chosen": policy[0::2].detach().sum(),
            "logps/rejected": policy[1::2].detach().sum(),
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
