"""Several processes that train one model: who does what, and how the parameters are shared out.

Each rank is a process of its own (torchrun starts them), and runs the same command. Rank 0 alone writes; what it
finds wrong, all raise. Parameters, gradients and optimizer states lie in shards, one a rank (FSDP2: Zhao et al.
2023, "PyTorch FSDP"; `fully_shard`), and a layer is whole only while it computes.

torch's own `fully_shard` is called here, before the Trainer sees the model, and not by accelerate, which knows no
FSDP on a CPU (it falls back to DDP without a word) and shards the output head apart from the forward pass that
needs it.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from dusk.train.precision import computes_in_bf16, device_of_training
from dusk.train.settings import Precision

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")

_PATIENCE = timedelta(hours=2)  # ranks wait while rank 0 reads a large model or writes one
_FIRST_FAILURE = "dusk/first_failure"


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def distributed(function: Callable[P, T]) -> Callable[P, T]:
    """A command that torchrun may have started in several processes: they find each other, and part at the end.

    An error carries `told_elsewhere` where another rank failed first: what follows from that (a connection that
    breaks, a copy of the same message) is not worth a second word.
    """

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> T:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
            return function(*args, **kwargs)
        _meet()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            error.told_elsewhere = not _failed_first()  # type: ignore[attr-defined]
            raise
        finally:
            dist.destroy_process_group()

    return command


def _meet() -> None:
    """Find the other processes. Small agreements go over the processors (gloo), tensors over the GPUs (NCCL)."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=_PATIENCE)


def _failed_first() -> bool:
    """Whether no other rank has failed before this one."""
    try:
        store = dist.distributed_c10d._get_default_store()
        return bool(store.compare_set(_FIRST_FAILURE, "", str(rank())) == str(rank()).encode())
    except Exception:  # the store went with the rank that failed
        return False


def on_main(work: Callable[[], T]) -> T | None:
    """Have rank 0 do `work` while the others wait; they get None. What it raises, all raise."""
    if world_size() == 1:
        return work()
    done: T | None = None
    failure: list[Exception | None] = [None]
    if rank() == 0:
        try:
            done = work()
        except Exception as error:
            failure[0] = error
    dist.broadcast_object_list(failure, src=0, device=torch.device("cpu"))
    if failure[0] is not None:
        raise failure[0]
    return done


def from_main(work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, on all; what it raises, all raise."""
    found: list[Any] = [on_main(work)]
    if world_size() > 1:
        dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    return found[0]  # type: ignore[no-any-return]


def summed(values: Tensor) -> Tensor:
    """The sum over all ranks of a tensor on the processor."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def dealt(items: Sequence[list[Item]]) -> list[list[Item]]:
    """This rank's share of the items, in turns; short shares are filled up with empty ones.

    A sharded model computes on all ranks or on none, so all must have as many.
    """
    filled = [*items, *([] for _ in range(-len(items) % world_size()))]
    return filled[rank() :: world_size()]


def spread(model: PreTrainedModel, precision: Precision | None) -> None:
    """Share a model out over all ranks; alone, leave it as it is.

    Rank 0 has the weights, the others are hollow: they receive their shards tensor by tensor, so that no rank but
    the first ever holds the whole. With bf16, layers are gathered in bf16 and gradients summed in float32.
    """
    if world_size() == 1:
        return
    device = device_of_training()
    weights = model.state_dict() if rank() == 0 else {}
    mixed = (
        MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if computes_in_bf16(precision, device)
        else MixedPrecisionPolicy()
    )
    mesh = init_device_mesh(device.type, (world_size(),))
    blocks = set(model._no_split_modules or ())
    for module in [module for module in model.modules() if type(module).__name__ in blocks]:
        fully_shard(module, mesh=mesh, mp_policy=mixed)
    fully_shard(model, mesh=mesh, mp_policy=mixed)
    model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    model.tie_weights()
    load_weights(model, weights)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Whole weights, which rank 0 has, into a model that may be shared out."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=world_size() > 1, strict=False)
    set_model_state_dict(model, dict(weights), options=options)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights by name, on the processor of rank 0 where the model is shared out; empty on the others."""
    if world_size() == 1:
        return dict(model.state_dict())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(model, options=options)
    names: dict[int, str] = {}  # of each parameter: what was tied shares its memory again
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first in weights:
            weights[name] = weights[first]
    return weights


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may lie in shards, as one; all ranks call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
