"""What training costs in floating-point operations: the products of matrices, counted exactly."""

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from dusk.data.packing import TokenStore
from dusk.machines import known_gpus


def unit_flops(model: PreTrainedModel, store: TokenStore) -> npt.NDArray[np.int64]:
    """Operations of the forward and backward passes over each unit of a store, (units,); of a dense model.

    6 for each element of a weight matrix and token, 4 where the matrix is frozen (Kaplan et al. 2020, section 2.1;
    the output head counts for the tokens that are predicted, the input embedding is a look-up), and 6 x layers x
    width of the heads x length squared for each document, causal attention counted as half. Norms, activations,
    padding, the optimizer, recomputed activations and the reference pass are left out.
    """
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = 6 * config.num_hidden_layers * heads * head_size
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    layers = sum(_cost(p) for p in model.parameters() if p.ndim >= 2 and p is not embedding and p is not head)
    costs: npt.NDArray[np.int64] = (
        layers * store.unit_lengths() + _cost(head) * _predicted(store) + attention * _squares(store)
    )
    return costs


def peak_flops() -> float:
    """Dense bf16 operations a second of this GPU by its maker's data sheet; 0 where it is not known, or none."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    known = (gpu for gpu in known_gpus().values() if gpu.name in name.replace(" ", ""))
    return next((gpu.peak_tflops * 1e12 for gpu in known), 0.0)


def _cost(matrix: torch.Tensor) -> int:
    return (6 if matrix.requires_grad else 4) * matrix.numel()


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
