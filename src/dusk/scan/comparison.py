"""From the maps that could be to what is known of them: screened all, measured the best, ranked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dusk.data.packing import TokenStore, best_fit
from dusk.layers import LayerMap
from dusk.scan.candidates import Candidate
from dusk.scan.certainty import Ranking, rank
from dusk.scan.layerwise import LayerwiseModel
from dusk.scan.measuring import SweepPlan, base_depths, document_nats, measure
from dusk.scan.similarity import Similarity, similarity
from dusk.train.batch import Batch, packed_batch

_ROW_TOKENS = 4096  # attended and multiplied at a time

Progress = Callable[[float, float | None, str], None]
Nats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Everything that a scan finds out.

    maps: all candidates; drift: each one's screening figure; measured: those whose loss is known, in the order
    of `ranking`'s rows; base_nats (D,) and nats: -log p of each document; sizes: the maps of other depths.
    """

    maps: tuple[Candidate, ...]
    drift: dict[LayerMap, float]
    alike: Similarity
    measured: tuple[Candidate, ...]
    ranking: Ranking
    base_nats: Nats
    nats: dict[LayerMap, Nats]
    sizes: tuple[LayerMap, ...]
    tokens: npt.NDArray[np.int64]
    text_bytes: int
    plan: SweepPlan

    def loss(self, nats: Nats) -> float:
        """Nats a token."""
        return float(nats.sum() / self.tokens.sum())


def compare(
    model: LayerwiseModel,
    store: TokenStore,
    maps: Sequence[Candidate],
    sizes: Sequence[LayerMap],
    measured: int,
    progress: Progress | None = None,
) -> Comparison:
    """Screen all maps with one pass of the base, and measure the `measured` of least drift.

    The paper's map and the user's own are measured whatever their drift; `sizes` are measured beside them.
    """
    layers = len(model.layers)
    bar = _Layers(progress, layers, "screening")
    depths = base_depths(model, _rows(store), bar)
    alike = similarity(depths)
    drift = {candidate.layer_map: alike.drift(candidate.layer_map) for candidate in maps}
    chosen = _chosen(maps, drift, measured)
    to_measure = [*(candidate.layer_map for candidate in chosen), *sizes]
    base_nats = document_nats(model, depths[-1], store.documents)
    bar = _Layers(progress, SweepPlan.of(to_measure).layers_run, "measuring")
    found = measure(model, depths, to_measure, store.documents, bar)
    tokens = predicted_tokens(store)
    return Comparison(
        maps=tuple(maps),
        drift=drift,
        alike=alike,
        measured=chosen,
        ranking=rank([found.nats[candidate.layer_map] for candidate in chosen], base_nats, tokens),
        base_nats=base_nats,
        nats=found.nats,
        sizes=tuple(sizes),
        tokens=tokens,
        text_bytes=int(store.text_bytes.sum()),
        plan=found.plan,
    )


def predicted_tokens(store: TokenStore) -> npt.NDArray[np.int64]:
    """The tokens of each document that are predicted, (D,): its first is not."""
    trained = store.trained.astype(np.int64)
    trained[store.offsets[:-1]] = 0
    return np.add.reduceat(trained, store.offsets[:-1])


def _rows(store: TokenStore) -> list[Batch]:
    lengths = store.unit_lengths()
    bins = best_fit(lengths, _ROW_TOKENS, np.argsort(lengths, kind="stable"))
    return [packed_batch(store, units) for units in bins]


def _chosen(maps: Sequence[Candidate], drift: dict[LayerMap, float], measured: int) -> tuple[Candidate, ...]:
    by_drift = sorted(maps, key=lambda candidate: drift[candidate.layer_map])
    always = [candidate for candidate in maps if candidate.papers or candidate.asked]
    return tuple(dict.fromkeys([*by_drift[:measured], *always]))


class _Layers:
    """Counts layers for a progress bar."""

    def __init__(self, progress: Progress | None, total: int, unit: str) -> None:
        self.progress, self.total, self.unit = progress, total, unit
        self.done = 0

    def __call__(self, layers: int) -> None:
        self.done += layers
        if self.progress is not None:
            self.progress(self.done, self.total, self.unit)
