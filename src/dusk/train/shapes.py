"""Numbers of rows that come again.

oneDNN, which makes torch's bf16 products on a processor, compiles a kernel for every shape: about 3 ms and 1.7 MiB
each, of which it keeps 1,024. Packed rows are seldom of one length twice, so they are filled up to a multiple.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

_MULTIPLE = 32


def compiles_by_shape(tensor: Tensor) -> bool:
    """Whether products of this tensor are made in bf16 on a processor, under autocast where that is on."""
    if tensor.device.type != "cpu":
        return False
    return tensor.dtype == torch.bfloat16 or (
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def rows_missing(rows: int) -> int:
    """How many rows there are to the next multiple."""
    return -rows % _MULTIPLE


def filled(rows: Tensor) -> Tensor:
    """Rows (..., N, D) with rows of zeros behind them where that spares a kernel, else as they are."""
    missing = rows_missing(rows.shape[-2]) if compiles_by_shape(rows) else 0
    return pad(rows, (0, 0, 0, missing)) if missing else rows
