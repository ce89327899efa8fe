"""What training costs in floating-point operations: the products of matrices, counted exactly."""

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from dusk.data.packing import TokenStore
from dusk.train.batch import PlannedBatches


def training_flops(model: PreTrainedModel, batches: PlannedBatches) -> int:
    """Operations of the forward and backward passes over all batches.

    6 for each element of a weight matrix and token (Kaplan et al. 2020, section 2.1; the output head counts,
    the input embedding is a look-up), and 6 x layers x width of the heads x length squared for each document,
    causal attention counted as half. Norms, activations and the optimizer are left out.
    """
    lengths, squares = _lengths(batches.store)
    tokens = sum(int(lengths[units].sum()) for units in batches.plan)
    squared = sum(int(squares[units].sum()) for units in batches.plan)
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = config.num_hidden_layers * heads * head_size * squared
    return int(6 * _matrix_elements(model) * tokens + 6 * attention)


def _matrix_elements(model: PreTrainedModel) -> int:
    """Elements that each token is multiplied with: all matrices but the input embedding, and the output head."""
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    matrices = {id(p): p.numel() for p in model.parameters() if p.ndim >= 2 and p is not embedding}
    return sum((matrices | {id(head): head.numel()}).values())


def _lengths(store: TokenStore) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Tokens of each unit, and the sum of the squares of its documents' lengths."""
    each = np.diff(store.offsets)
    squares = (each**2).reshape(-1, store.documents_per_unit).sum(axis=1)
    return store.unit_lengths(), squares
