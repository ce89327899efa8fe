"""The log-probabilities that a step of sDPO refers to: computed once, and kept by what they depend on.

A file is named by the digests of the model and of the tokens, and by the arithmetic, so that a run that differs in
beta, rate or schedule alone need not compute them again. They are saved piece by piece; a run that was killed goes
on behind the last one.
"""

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from dusk.data.packing import TokenStore
from dusk.solar_pro import skip_weight
from dusk.train.distribution import from_main, on_main
from dusk.train.heldout import document_nats
from dusk.train.precision import computes_in_bf16, device_of_training
from dusk.train.preference import CHOSEN, PAIR, REJECTED
from dusk.train.settings import TrainSettings

Logs = npt.NDArray[np.float64]
"""log p in nats of the chosen and the rejected answer of each pair, (pairs, 2)."""

_PIECE_TOKENS = 1 << 22


def reference_logs(
    folder: Path, model_digest: str, model: PreTrainedModel, store: TokenStore, settings: TrainSettings
) -> Logs:
    """Log-probabilities under `model` as it is now, from `folder` where they are known there."""
    arithmetic = "bf16" if computes_in_bf16(settings.precision, device_of_training()) else "fp32"
    model_part = model_digest.removeprefix("sha256:")[:16]
    file = folder / f"reference-{model_part}-{store.digest()}-{arithmetic}.npy"
    if from_main(file.exists):
        return from_main(lambda: np.load(file))
    partial = file.with_suffix(".partial.npy")
    logs: Logs = from_main(lambda: _begun(partial, store.units))
    per_piece = max(1, int(_PIECE_TOKENS * store.units // store.tokens.size))
    for begin in range(0, store.units, per_piece):
        units = slice(begin, min(begin + per_piece, store.units))
        if np.isnan(logs[units]).any():
            piece = store.of_units(range(units.start, units.stop))
            with skip_weight(
                model, "training"
            ):  # of Solar Pro, whose skips in evaluation are another function
                logs[units] = -answers(document_nats(model, piece, precision=settings.precision))
            on_main(lambda: _keep(logs, partial))
    on_main(lambda: _keep(logs, file))
    on_main(lambda: partial.unlink(missing_ok=True))
    return logs


def answers(figures: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Figures of all documents of a store of pairs as those of the two answers, (pairs, 2)."""
    return figures.reshape(-1, PAIR)[:, [CHOSEN, REJECTED]]


def accuracies(logs: Logs, store: TokenStore) -> tuple[float, float]:
    """Shares of pairs whose chosen answer is the likelier, in total and per token."""
    mean = logs / np.maximum(answers(store.predicted()), 1)
    return float((logs[:, 0] > logs[:, 1]).mean()), float((mean[:, 0] > mean[:, 1]).mean())


def _begun(partial: Path, pairs: int) -> Logs:
    """What an earlier attempt has left; no number where nothing is known yet."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    return np.load(partial) if partial.exists() else np.full((pairs, 2), np.nan)


def _keep(logs: Logs, file: Path) -> None:
    """Whole or not at all, also where another run computes the same at the same time."""
    writing = file.with_suffix(f".{uuid4().hex}.npy")
    try:
        np.save(writing, logs)
        writing.replace(file)
    finally:
        writing.unlink(missing_ok=True)
