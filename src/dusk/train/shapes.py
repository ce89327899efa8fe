"""Numbers of rows that come again.

oneDNN, which makes torch's bf16 products on a processor, compiles a kernel for every shape: 0.5 to 3 ms and 0.4 to
1.7 MiB each, of which it keeps 1,024. Packed rows are seldom of one length twice, so they are filled up.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

_STEPS = 32  # numbers of rows within a power of two, and the lowest of all


def compiles_by_shape(tensor: Tensor) -> bool:
    """Whether products of this tensor are made in bf16 on a processor, under autocast where that is on."""
    if tensor.device.type != "cpu":
        return False
    return tensor.dtype == torch.bfloat16 or (
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def rows_missing(rows: int) -> int:
    """How many rows there are to the next multiple of 32, of 64 from 2,048 on, of 128 from 4,096 on, and so on."""
    return -rows % max(_STEPS, (1 << rows.bit_length()) // (2 * _STEPS))


def filled(rows: Tensor) -> Tensor:
    """Rows (..., N, D) with rows of zeros behind them where that spares a kernel, else as they are."""
    missing = rows_missing(rows.shape[-2]) if compiles_by_shape(rows) else 0
    return pad(rows, (0, 0, 0, missing)) if missing else rows
