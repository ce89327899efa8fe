"""A model run one layer at a time, its layers in any order, the weights in memory or on the disk.

transformers' own forward pass makes the embeddings and the rotary tables and applies the last norm: around it
each layer is a `_Slot` that notes what it is called with and passes its input on. The layers themselves are
called by `run_layer`, in whatever order a map asks for. With the layers left on the disk
(`dusk.checkpoint.on_disk`) what is in memory is one layer's weights, the embeddings and the hidden states.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from dusk.checkpoint import Checkpoint
from dusk.checkpoint.on_disk import layers_on_disk
from dusk.train.attention import packed, packing_of
from dusk.train.batch import Batch
from dusk.train.model import load_model
from dusk.train.precision import device_of_training
from dusk.train.support import require_trainable

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class _Slot(torch.nn.Module):
    """In a layer's place: notes its arguments and passes its input on, or the states it was given instead."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # no child: its weights are not this module's
        self.entered: Tensor | None = None
        self.arguments: Arguments = ((), {})
        self.instead: Tensor | None = None

    def __getattr__(self, name: str) -> Any:  # what a decoder asks of a layer, such as `attention_type`
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.entered, self.arguments = hidden, (args, kwargs)
        return hidden if self.instead is None else self.instead


class LayerwiseModel:
    """A causal model whose layers are called one by one, on batches of packed documents: its `rows`.

    Hidden states are lists of one tensor a row, each (1, tokens, hidden size).
    """

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        self.model = model
        self.rows: list[Batch] = []
        self._list = model.get_submodule(name)
        self.layers = list(self._list.children())
        self._slots = [_Slot(layer) for layer in self.layers]
        self._arguments: list[list[Arguments]] = []

    @torch.no_grad()
    def embed(self, rows: Sequence[Batch]) -> list[Tensor]:
        """The hidden states of these rows in front of the first layer; notes what each layer is called with."""
        device = self.head.device
        self.rows = [{name: value.to(device) for name, value in row.items()} for row in rows]
        self._arguments = []
        states = []
        for row in self.rows:
            self._decode(row)
            self._arguments.append([slot.arguments for slot in self._slots])
            entered = self._slots[0].entered
            assert entered is not None
            states.append(entered)
        return states

    @torch.no_grad()
    def run_layer(self, layer: int, states: Sequence[Tensor]) -> list[Tensor]:
        """The hidden states behind a layer, from those in front of it."""
        behind = []
        for hidden, arguments in zip(states, self._arguments, strict=True):
            args, kwargs = arguments[layer]
            out = self.layers[layer](hidden, *args, **kwargs)
            behind.append(out[0] if isinstance(out, tuple) else out)
        return behind

    @torch.no_grad()
    def before_head(self, row: int, hidden: Tensor) -> Tensor:
        """What the output head multiplies, (tokens, hidden size), from the states behind the last layer."""
        self._slots[-1].instead = hidden
        try:
            return self._decode(self.rows[row])
        finally:
            self._slots[-1].instead = None

    @property
    def head(self) -> Tensor:
        """The output head, (vocabulary, hidden size)."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def _decode(self, row: Batch) -> Tensor:
        self._fill(self._slots)
        try:
            out = self.model.get_decoder()(
                input_ids=row["input_ids"],
                position_ids=row["position_ids"],
                use_cache=False,
                packing=packing_of(row["boundaries"]),
            )
        finally:
            self._fill(self.layers)
        states: Tensor = out.last_hidden_state[0]
        return states

    def _fill(self, modules: Sequence[torch.nn.Module]) -> None:
        for index, module in enumerate(modules):
            self._list[index] = module


@contextmanager
def layerwise(base: Checkpoint, *, from_disk: bool) -> Iterator[LayerwiseModel]:
    """The base as a `LayerwiseModel` with float32 weights, its layers in memory or left on the disk.

    Raises `CheckpointError` for models that packed attention does not fit.
    """
    with _loaded(base, from_disk=from_disk) as model:
        require_trainable(model)
        with packed(model):
            yield LayerwiseModel(model.eval(), base.layout.prefix)


@contextmanager
def _loaded(base: Checkpoint, *, from_disk: bool) -> Iterator[PreTrainedModel]:
    if not from_disk:
        yield load_model(base.path)
        return
    with layers_on_disk(base.path, AutoModelForCausalLM, device_of_training()) as (model, _):
        yield model
