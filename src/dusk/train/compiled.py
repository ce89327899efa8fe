"""Layers compiled by torch.compile, around a packed attention that stays as it is."""

import torch
from transformers import AttentionInterface, PreTrainedModel

from dusk.errors import SettingError
from dusk.train.attention import NAME, packed_attention
from dusk.train.precision import device_of_training


def compile_layers(model: PreTrainedModel) -> None:
    """Compile norms, projections, rotary embeddings and MLPs, once for all layers.

    It is each layer's `forward` that is compiled, so that the hooks of a sharded layer stay outside. Rows differ
    in length and in their packing: shapes are dynamic, and attention is a break in the graph.

    Raises:
        SettingError: there is no compiler for what torch generates.
    """
    _require_compiler()
    AttentionInterface.register(NAME, torch.compiler.disable(packed_attention))
    for layer in model.get_decoder().layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)


def _require_compiler() -> None:
    if device_of_training().type != "cpu":
        return  # torch brings Triton
    from torch._inductor.cpp_builder import get_cpp_compiler  # lazy: imports take a second
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise SettingError(
            "compile needs a C++ compiler on a machine without a GPU, and there is none",
            remedy="Install g++ or clang++ (CXX names another), or leave compile out.",
        ) from error
