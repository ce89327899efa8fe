"""What a checkpoint is, from its config and headers: the facts of `dusk inspect`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dusk.checkpoint.deepen import per_layer_fields
from dusk.checkpoint.expected import is_tied
from dusk.checkpoint.folder import open_checkpoint
from dusk.checkpoint.manifest import read_manifest
from dusk.skips import Skips, config_problems


@dataclass(frozen=True)
class Inspection:
    """Sizes count stored elements; `per_layer` are the config's lists with one entry a layer.

    `layer_map` is the map that made the model, where dusk scaled it. `skips` are Solar Pro's skip connections as
    pairs store-use.
    """

    path: str
    architecture: str
    model_type: str
    layers: int
    layer_prefix: str
    count_key: str
    parameters: int
    parameters_per_layer: list[int]
    total_bytes: int
    dtypes: dict[str, int]
    tied_embeddings: bool
    per_layer: dict[str, list[Any]]
    files: dict[str, int]
    header_digest: str
    layer_map: str | None
    skips: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return asdict(self)


def inspect_checkpoint(model: str | Path) -> Inspection:
    """The facts of a model folder or hub id; raises `CheckpointError` for what is none."""
    checkpoint = open_checkpoint(model)
    layout, config = checkpoint.layout, checkpoint.config
    scope = layout.scope(config)
    dtypes: Counter[str] = Counter()
    per_layer_parameters = [0] * layout.layers
    for name, entry in checkpoint.tensors.items():
        dtypes[entry.dtype] += entry.elements
        split = layout.split(name)
        if split is not None:
            per_layer_parameters[split[0]] += entry.elements
    manifest = read_manifest(checkpoint.path)
    layer_map = manifest.layer_map if manifest else None
    return Inspection(
        path=str(checkpoint.path),
        architecture=", ".join(config.get("architectures") or []),
        model_type=str(config.get("model_type", "")),
        layers=layout.layers,
        layer_prefix=layout.prefix,
        count_key=".".join((*layout.config_path, layout.count_key)),
        parameters=checkpoint.parameters,
        parameters_per_layer=per_layer_parameters,
        total_bytes=checkpoint.total_bytes,
        dtypes=dict(dtypes),
        tied_embeddings=is_tied(scope) or is_tied(config),
        per_layer={key: scope[key] for key in per_layer_fields(scope, layout.layers)},
        files={header.file.name: header.file_bytes for header in checkpoint.headers},
        header_digest=checkpoint.header_digest(),
        layer_map=layer_map["spec"] if layer_map else None,
        skips=_skips(config),
    )


def _skips(config: Mapping[str, Any]) -> str | None:
    if config.get("model_type") != "solar" or config_problems(config):
        return None
    return Skips.of(config).spec() or "none"
