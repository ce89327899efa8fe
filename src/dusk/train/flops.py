"""What training costs in floating-point operations: the products of matrices, counted exactly."""

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from dusk.data.packing import TokenStore
from dusk.train.batch import PlannedBatches


def training_flops(model: PreTrainedModel, batches: PlannedBatches) -> int:
    """Operations of the forward and backward passes over all batches; of a dense model.

    6 for each element of a weight matrix and token (Kaplan et al. 2020, section 2.1; the output head counts for
    the tokens that are predicted, the input embedding is a look-up), and 6 x layers x width of the heads x
    length squared for each document, causal attention counted as half. Norms, activations, padding, the
    optimizer and the reference pass are left out.
    """
    store = batches.store
    lengths, squares, predicted = store.unit_lengths(), _squares(store), _predicted(store)
    tokens, squared, answers = (
        sum(int(counts[units].sum()) for units in batches.plan) for counts in (lengths, squares, predicted)
    )
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = config.num_hidden_layers * heads * head_size * squared
    head = model.get_output_embeddings().weight.numel()
    return int(6 * (_layer_elements(model) * tokens + head * answers + attention))


def _layer_elements(model: PreTrainedModel) -> int:
    """Elements that each token is multiplied with: all matrices but the input embedding and the output head."""
    tables = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    return sum(p.numel() for p in model.parameters() if p.ndim >= 2 and all(p is not t for t in tables))


def _squares(store: TokenStore) -> npt.NDArray[np.int64]:
    """For each unit the sum of the squares of its documents' lengths; a branch also sees its prefix twice over."""
    lengths = np.diff(store.offsets).reshape(-1, store.documents_per_unit)
    prefix, branches = lengths[:, :1], lengths[:, 1:]
    sums: npt.NDArray[np.int64] = (lengths**2).sum(1) + 2 * (prefix * branches).sum(1)
    return sums


def _predicted(store: TokenStore) -> npt.NDArray[np.int64]:
    """For each unit the tokens that are predicted."""
    sums: npt.NDArray[np.int64] = store.predicted().reshape(-1, store.documents_per_unit).sum(1)
    return sums
