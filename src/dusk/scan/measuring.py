"""The exact loss of many maps of one base at once: what they have in common is computed once.

Two maps that begin with the same source layers have the same hidden states there. The layers are gone through
from the first to the last, again and again: each time a layer's turn comes, every map that waits for it is
taken one step further, so that a layer's weights are read once a sweep for all maps together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dusk.layers import LayerMap
from dusk.scan.layerwise import LayerwiseModel
from dusk.scan.similarity import live_layers
from dusk.train.batch import Batch
from dusk.train.loss import IGNORED, log_probabilities

Nats = npt.NDArray[np.float64]
Step = Callable[[int], None]
Path = tuple[int, ...]
"""The source layers that hidden states have been through; identity blocks leave no trace."""


@dataclass(frozen=True)
class Measured:
    """-log p of each document in nats under each map, (documents,), and the plan that it took."""

    nats: dict[LayerMap, Nats]
    plan: "SweepPlan"


def base_depths(
    model: LayerwiseModel, rows: Sequence[Batch], progress: Step = lambda layers: None
) -> list[list[Tensor]]:
    """The hidden states of the base at depths 0..n: one forward pass."""
    depths = [model.embed(rows)]
    for layer in range(len(model.layers)):
        depths.append(model.run_layer(layer, depths[-1]))
        progress(1)
    return depths


def document_nats(model: LayerwiseModel, states: Sequence[Tensor], documents: int) -> Nats:
    """-log p of the trained tokens of each document, (documents,), from the states behind the last layer."""
    nats = np.zeros(documents)
    for number, row in enumerate(model.rows):
        labels = row["labels"][0]
        kept = labels != IGNORED
        with torch.no_grad():
            hidden = model.before_head(number, states[number])[kept]
            logs = log_probabilities(hidden, model.head, labels[kept])
        of_token = torch.bucketize(torch.nonzero(kept)[:, 0], row["boundaries"][1:], right=True)
        sums = logs.new_zeros(len(row["documents"])).index_add(0, of_token, logs)
        nats[row["documents"].cpu().numpy()] = -sums.double().cpu().numpy()
    return nats


def measure(
    model: LayerwiseModel,
    depths: Sequence[Sequence[Tensor]],
    maps: Sequence[LayerMap],
    documents: int,
    progress: Step = lambda layers: None,
) -> Measured:
    """The nats of every document under each map, from the base's own hidden states at depths 0..n."""
    plan = SweepPlan.of(maps)
    states: dict[Path, Sequence[Tensor]] = {start: depths[len(start)] for start in plan.starts}
    to_run = {path: set(layers) for path, layers in plan.branches.items()}
    nats: dict[Path, Nats] = {}

    def arrive(path: Path, hidden: Sequence[Tensor]) -> None:
        if path in plan.ends:
            nats[path] = document_nats(model, hidden, documents)
        if to_run.get(path):
            states[path] = hidden
        else:
            states.pop(path, None)

    for start in plan.starts:
        arrive(start, states[start])
    while states:
        for layer in range(len(model.layers)):
            while here := [path for path in states if layer in to_run[path]]:
                for path in here:
                    behind = model.run_layer(layer, states[path])
                    to_run[path].discard(layer)
                    if not to_run[path]:
                        del states[path]
                    arrive((*path, layer), behind)
                    progress(1)
    return Measured({layer_map: nats[live_layers(layer_map)] for layer_map in maps}, plan)


@dataclass(frozen=True)
class SweepPlan:
    """Which layers are run behind which paths, so that no path is run twice.

    `starts` are the paths that the base's own forward pass has gone already, `ends` those of whole maps.
    """

    starts: frozenset[Path]
    ends: frozenset[Path]
    branches: dict[Path, frozenset[int]]
    layers_alone: int

    @classmethod
    def of(cls, maps: Sequence[LayerMap]) -> "SweepPlan":
        """The plan for these maps of one base."""
        branches: dict[Path, set[int]] = {}
        wholes = [live_layers(layer_map) for layer_map in maps]
        starts = [whole[: _with_the_base(whole)] for whole in wholes]
        for whole, start in zip(wholes, starts, strict=True):
            for length in range(len(start), len(whole)):
                branches.setdefault(whole[:length], set()).add(whole[length])
        return cls(
            frozenset(starts),
            frozenset(wholes),
            {path: frozenset(layers) for path, layers in branches.items()},
            sum(len(whole) for whole in wholes),
        )

    @property
    def layers_run(self) -> int:
        """Layers that are run, each over the whole text."""
        return sum(len(layers) for layers in self.branches.values())

    @property
    def sharing(self) -> float:
        """How many times as many layers the maps would run one by one."""
        return self.layers_alone / max(1, self.layers_run)


def _with_the_base(path: Path) -> int:
    """How many layers a path begins with that are the base's own, in order."""
    return next((i for i, layer in enumerate(path) if layer != i), len(path))
