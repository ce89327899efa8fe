"""What the result is besides deeper: its architecture, its skip connections, its vocabulary, its code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dusk.checkpoint import Checkpoint, NewTensor, require_fit
from dusk.errors import SettingError
from dusk.scale.architecture import Architecture, as_architecture
from dusk.scale.remote_code import with_auto_map, write_remote_code
from dusk.scale.skips import with_skips
from dusk.scale.vocabulary import padded

_ARCHITECTURES = ("llama", "solar-pro")


@dataclass(frozen=True)
class Form:
    """The wishes of the user, named as the parameters of `scale`; the default is the base's own form."""

    architecture: Architecture | None = None
    skips: str | None = None
    skip_weights: Sequence[float] | None = None
    pad_vocabulary: int | None = None
    with_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.architecture not in (None, *_ARCHITECTURES):
            raise SettingError(
                f"There is no architecture {self.architecture!r} to write a model as.",
                remedy=f"There are {' and '.join(_ARCHITECTURES)}.",
            )
        if self.architecture == "llama" and self._of_solar_pro:
            raise SettingError(
                "Skip connections, their weights and their code are Solar Pro's; Llama has none.",
                remedy="Leave `--as llama` out, or write `--as solar-pro`.",
            )

    @property
    def _of_solar_pro(self) -> bool:
        return self.skips is not None or self.skip_weights is not None or self.with_remote_code

    def base(self, base: Checkpoint) -> tuple[Checkpoint, list[str]]:
        """The base under the names of the result's architecture, and notes on what that changes.

        Raises `CheckpointError` where it cannot be that, or its weights do not fit its config.
        """
        require_fit(base)
        is_solar = base.config.get("model_type") == "solar"
        wanted = self.architecture or ("solar-pro" if self._of_solar_pro and not is_solar else None)
        if wanted is None:
            return base, []
        seen, notes = as_architecture(base, wanted)
        require_fit(seen)
        return seen, notes

    def config(self, config: Mapping[str, Any], layers: int) -> tuple[dict[str, Any], list[str]]:
        """The deeper model's config with these wishes in it.

        Raises `SettingError` for skips that it cannot have.
        """
        made = dict(config)
        notes: list[str] = []
        if made.get("model_type") == "solar":
            made, notes = with_skips(made, layers, self.skips, self.skip_weights)
        if self.with_remote_code:
            made = with_auto_map(made)
        if self.pad_vocabulary is not None:
            notes.append(
                f"vocabulary: {made.get('vocab_size')} to {self.pad_vocabulary} rows, the new ones zero"
            )
            made["vocab_size"] = self.pad_vocabulary
        return made, notes

    def tensors(self, tensors: Sequence[NewTensor], base: Checkpoint) -> Sequence[NewTensor]:
        """The deeper model's tensors with these wishes; raises `SettingError` for a smaller vocabulary."""
        if self.pad_vocabulary is None:
            return tensors
        rows = base.config.get("vocab_size")
        if type(rows) is not int:
            raise SettingError(f"{base.path} states no vocab_size, so it cannot be padded.")
        return padded(tensors, rows, self.pad_vocabulary)

    def finish(self, folder: Path) -> None:
        """Files beside the weights: code of another architecture goes, Solar Pro's comes."""
        if self.architecture is not None or self._of_solar_pro:
            for file in folder.glob("*.py"):
                file.unlink()
        if self.with_remote_code:
            write_remote_code(folder)

    def to_json(self) -> dict[str, Any]:
        """The wishes as settings of dusk.json; those that were not made are None."""
        weights = list(self.skip_weights) if self.skip_weights is not None else None
        return {**vars(self), "skip_weights": weights, "with_remote_code": self.with_remote_code or None}
