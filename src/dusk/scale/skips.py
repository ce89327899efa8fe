"""Skip connections as a way to grow: given to a deeper model, or changed in one that has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from dusk.errors import SettingError
from dusk.skips import LAYER_KEYS, WEIGHTS_KEY, Skips, config_problems


def with_skips(
    config: Mapping[str, Any], layers: int, skips: str | None, weights: Sequence[float] | None
) -> tuple[dict[str, Any], list[str]]:
    """The config of a Solar Pro of `layers` layers with these skips, and what was done to them.

    `skips`: `published` (at another depth by `Skips.scaled`), `none`, or pairs store-use such as `3-5,6-9`;
    without it the config's own stay. `weights` are those of training and inference.
    Raises `SettingError` for skips that this depth cannot have and for weights that are none.
    """
    changed: dict[str, Any] = {}
    if skips is not None:
        try:
            chosen = Skips(((), ()), ((), ())) if skips == "none" else Skips.parse(skips, layers)
        except ValueError as error:
            raise SettingError(
                f"The skips `{skips}` cannot be made in {layers} layers.",
                problems=str(error).split("; "),
                remedy="Give `published`, `none`, or pairs store-use of layers counted from 0, as 12-16,20-24.",
            ) from error
        changed |= chosen.to_config()
    if weights is not None:
        changed[WEIGHTS_KEY] = list(weights)
    made = {**config, **changed}
    problems = config_problems(made)
    if problems:
        raise SettingError("These skip connections cannot be used.", problems=problems)
    told = Skips.of({key: made[key] for key in LAYER_KEYS}).spec() or "none"
    return made, [f"skip connections: {told}"] if skips is not None else []
