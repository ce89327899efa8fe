"""Is this folder a whole model? Structure and config against weights, and, if asked, a forward pass."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dusk.checkpoint.deepen import per_layer_fields
from dusk.checkpoint.digests import differences, folder_digests
from dusk.checkpoint.expected import expected_tensors, has_redundant_head, misfits, skip_problems
from dusk.checkpoint.folder import Checkpoint, open_checkpoint
from dusk.checkpoint.hub import resolve
from dusk.checkpoint.manifest import Manifest, read_manifest, unknown_fields, write_manifest
from dusk.errors import CheckpointError
from dusk.skips import config_problems


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, what is wrong, and what is odd but works.

    `cache_difference` is the largest difference of the logits with and without the KV cache, relative
    to the largest logit; None when no forward pass was asked for or none was possible.
    """

    path: str
    checked: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    cache_difference: float | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def require(self) -> None:
        """Raises `CheckpointError` with all problems when there are any."""
        if self.problems:
            raise CheckpointError(f"{self.path} is not a whole model.", problems=self.problems)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {"ok": self.ok, **asdict(self)}


def verify(model: str | Path, *, forward: bool = False, write: bool = False) -> VerifyReport:
    """Checks a model folder or hub id; faults of the model are in the report and not raised.

    Where `dusk.json` holds digests, every byte is read and compared with them; `write` writes them there,
    for a model without problems. Else only the config and the headers are read.
    With `forward`, transformers loads the model
    and its logits on a short input are compared with and without the KV cache.
    Raises `CheckpointError` when there is no such folder or hub id.
    """
    path = resolve(model)
    try:
        checkpoint = open_checkpoint(path)
        problems, warnings = _against_config(checkpoint)
    except CheckpointError as error:
        faults = tuple(f"{error.message} {problem}" for problem in error.problems) or (str(error),)
        return VerifyReport(str(path), ("files",), faults)
    checked = ["files", "headers", "layers", "config"]
    if expected_tensors(checkpoint.config, checkpoint.layout.layers) is not None:
        checked.append("names and shapes")
    else:
        warnings.append("Names and shapes of this architecture are checked by a forward pass only.")
    if not problems:
        try:
            problems += _digest_problems(checkpoint, checked, write=write)
        except CheckpointError as error:  # a disk that does not give the bytes
            problems.append(error.message)
    if not forward or problems:
        return VerifyReport(str(path), tuple(checked), tuple(problems), tuple(warnings))
    from dusk.checkpoint.forward import forward_check  # lazy: torch and transformers

    faults, difference = forward_check(path)
    checked += ["loading"] if difference is None else ["loading", "cached = uncached"]
    return VerifyReport(str(path), tuple(checked), faults, tuple(warnings), difference)


def _against_config(checkpoint: Checkpoint) -> tuple[list[str], list[str]]:
    problems = misfits(checkpoint) + _per_layer_problems(checkpoint) + _manifest_problems(checkpoint)
    faulty, unreached = _skips(checkpoint)
    problems += faulty
    warnings = unreached
    if has_redundant_head(checkpoint.config, checkpoint.tensors):
        warnings.append("lm_head.weight is stored although the config ties it to the embedding.")
    if checkpoint.unlisted:
        shown = ", ".join(checkpoint.unlisted[:5])
        warnings.append(f"{len(checkpoint.unlisted)} tensors lie in the files but not in the index: {shown}.")
    return problems, warnings


def _skips(checkpoint: Checkpoint) -> tuple[list[str], list[str]]:
    """What is wrong with Solar Pro's skips, and which name layers that the model does not have."""
    faulty = skip_problems(checkpoint.config)
    if faulty or checkpoint.config.get("model_type") != "solar":
        return faulty, []
    return [], config_problems(checkpoint.config, checkpoint.layout.layers)


def _per_layer_problems(checkpoint: Checkpoint) -> list[str]:
    """`layer_types` must have one entry a layer: transformers refuses a config where it has not."""
    scope = checkpoint.layout.scope(checkpoint.config)
    layers = checkpoint.layout.layers
    fitting = per_layer_fields(scope, layers)
    return [
        f"the config's {key} has {len(scope[key])} entries for {layers} layers"
        for key in ("layer_types", "mlp_layer_types", "no_rope_layers")
        if isinstance(scope.get(key), list) and scope[key] and key not in fitting
    ]


def _manifest_problems(checkpoint: Checkpoint) -> list[str]:
    manifest = read_manifest(checkpoint.path)
    layers, problems = checkpoint.layout.layers, []
    stated = manifest.layer_map.get("layers") if manifest and manifest.layer_map else layers
    if stated != layers:
        problems.append(f"dusk.json says {stated} layers, the model has {layers}")
    unknown = unknown_fields(checkpoint.path)  # a damaged name would hide the digests
    return problems + [f"dusk.json has {name!r}, which no manifest has" for name in unknown]


def _digest_problems(checkpoint: Checkpoint, checked: list[str], *, write: bool) -> list[str]:
    manifest = read_manifest(checkpoint.path)
    if write:
        made = (manifest or Manifest("verify")).sealed(folder_digests(checkpoint))
        write_manifest(checkpoint.path, made)
        checked.append("digests written")
    elif manifest and manifest.digests:
        checked.append("digests")
        return differences(manifest.digests, folder_digests(checkpoint) | manifest.own_digest())
    return []
