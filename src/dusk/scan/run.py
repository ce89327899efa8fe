"""The scan: which map of a wanted depth does the least damage before training, and how sure that is."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk.checkpoint import Checkpoint, OutputFolder, deepen_config, open_checkpoint, require_fit, write_json
from dusk.data.packing import TokenStore
from dusk.data.stores import file_digest, text_store
from dusk.errors import LayerMapError, SettingError
from dusk.layers import LayerMap
from dusk.scale.choice import nearest_map, parse_size
from dusk.scan.candidates import Candidate, candidates, depths_between
from dusk.scan.certainty import require_enough
from dusk.scan.comparison import compare, predicted_tokens
from dusk.scan.layerwise import layerwise
from dusk.scan.probes import probe
from dusk.scan.result import told
from dusk.train.model import context_length, hollow_model
from dusk.train.output import data_files
from dusk.train.vocabulary import load_tokenizer

RESULT_FILE = "scan.json"
TEXT_TOKENS = 16_384
MEASURED = 8
SIZES = 4
PROBED = 4
_SEQUENCE_LENGTH = 512
_FLOAT32_BYTES = 4
_MEMORY_SHARE = 0.5  # of the free memory that the weights may take before the layers stay on the disk

Progress = Callable[[float, float | None, str], None]


@dataclass(frozen=True)
class ScanReport:
    """What was found; `result` is what stands in scan.json."""

    out: Path
    result: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The result, with where it lies."""
        return {"out": str(self.out), **self.result}


def scan(
    base: str | Path,
    out: str | Path,
    *,
    text: Path | Sequence[Path],
    to: int | None = None,
    params: int | str | None = None,
    layers: Sequence[str] = (),
    measured: int = MEASURED,
    sizes: int = SIZES,
    tokens: int = TEXT_TOKENS,
    from_disk: bool | None = None,
    probe_data: Path | Sequence[Path] = (),
    probe_tokens: int | None = None,
    probe_settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ScanReport:
    """Compares the maps that take `base` to one depth, on held-out `text`, and writes `out`/scan.json.

    `to` layers or about `params` parameters choose the depth; `layers` adds maps of the user's own. One
    forward pass of the base screens every map by the drift of its hidden states; the exact loss is measured
    for the `measured` best of them, the paper's map and the user's own. `sizes` other depths are measured
    with the paper's map, for the curve of damage against size, and never ranked. At most about `tokens` tokens
    of the text are used. `from_disk` leaves the layers on the disk and reads one at a time; unless told, where
    the float32 weights would take more than half of the free memory.

    With `probe_data` the four best are trained on it by successive halving, for `probe_tokens` tokens in the
    first round and with `probe_settings` of the trainer (`TrainSettings`). No model is left.

    Raises `InputError` for a base, a text or settings that cannot be used, `OutputError` when the disk gives up.
    """
    begin = time.perf_counter()
    checkpoint = open_checkpoint(base)
    require_fit(checkpoint)
    target = _target(checkpoint, to, params)
    files, training = data_files(text), data_files(probe_data)
    if bool(training) != (probe_tokens is not None):
        raise SettingError("`probe_data` and `probe_tokens` go together: what to train on, and how much.")
    if measured < 1:
        raise SettingError(f"`measured` is {measured}; at least one map must be.")
    fitting, refused = _fitting(checkpoint, candidates(checkpoint.layout.layers, target, layers))
    depths = depths_between(checkpoint.layout.layers, target, sizes)
    others = [layer_map for layer_map in (_papers(checkpoint, depth) for depth in depths) if layer_map]
    if from_disk is None:
        from_disk = checkpoint.parameters * _FLOAT32_BYTES > _MEMORY_SHARE * _free_memory_bytes()
    store = _store(checkpoint, files, tokens)
    with OutputFolder(out) as folder:
        with layerwise(checkpoint, from_disk=from_disk) as model:
            found = compare(model, store, fitting, others, measured, progress)
        probes = None
        if probe_tokens is not None:
            best = [found.measured[row].layer_map for row in found.ranking.order[:PROBED]]
            probes = probe(
                checkpoint.path,
                best,
                folder.path,
                data=training,
                heldout=files,
                tokens=probe_tokens,
                settings=probe_settings,
                progress=progress,
            )
        result = told(checkpoint, found, probes) | {"text": _told_text(files, store), "refused": refused}
        result["cost"] |= {"layers_on_disk": from_disk, "seconds": round(time.perf_counter() - begin, 2)}
        write_json(folder.path / RESULT_FILE, result)
        folder.commit()
    return ScanReport(Path(out), result)


def _target(base: Checkpoint, to: int | None, params: int | str | None) -> int:
    if (to is None) == (params is None):
        raise SettingError("`to` and `params` choose the depth; give one of them.")
    return to if to is not None else len(nearest_map(base, parse_size(str(params))))


def _fitting(base: Checkpoint, maps: Sequence[Candidate]) -> tuple[list[Candidate], list[dict[str, str]]]:
    """The maps that this architecture can have, and why the others cannot be."""
    fitting, refused = [], []
    for candidate in maps:
        try:
            deepen_config(base.config, base.layout, candidate.layer_map)
        except LayerMapError as error:
            refused.append({"spec": candidate.spec, "reason": error.message})
        else:
            fitting.append(candidate)
    if not fitting:
        raise LayerMapError(
            f"No map of this depth fits {base.name}.", problems=[told["reason"] for told in refused[:5]]
        )
    return fitting, refused


def _papers(base: Checkpoint, depth: int) -> LayerMap | None:
    layer_map = LayerMap.to_depth(base.layout.layers, depth)
    try:
        deepen_config(base.config, base.layout, layer_map)
    except LayerMapError:
        return None
    return layer_map


def _free_memory_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _store(base: Checkpoint, files: Sequence[Path], tokens: int) -> TokenStore:
    """The text as tokens, before any weight is read: a large model takes minutes, a text may be too short."""
    model = hollow_model(base.path)
    tokenizer = load_tokenizer(base.path, model)
    length = min(_SEQUENCE_LENGTH, context_length(model, None))
    store = text_store(files, tokenizer, sequence_length=length)[0].thinned(tokens)
    require_enough(store.documents, int(predicted_tokens(store).sum()))
    return store


def _told_text(files: Sequence[Path], store: TokenStore) -> dict[str, Any]:
    return {
        "files": [{"name": Path(file).name, "digest": file_digest(Path(file))} for file in files],
        "documents": store.documents,
        "tokens": int(predicted_tokens(store).sum()),
        "bytes": int(store.text_bytes.sum()),
    }


def _since(begin: float) -> float:
    return round(time.perf_counter() - begin, 2)
