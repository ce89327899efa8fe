"""What to install when an import fails: the extra that a package belongs to."""

from dusk.errors import SettingError

_EXTRAS = {"torch": "train", "transformers": "train", "accelerate": "train", "lm_eval": "eval"}


def missing_extra(error: BaseException) -> SettingError | None:
    """The error to show in place of an import error, where an extra of dusk's would have it."""
    package = (getattr(error, "name", None) or "").split(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in _EXTRAS:
        return None
    return SettingError(f"{package} is not installed.", remedy=f"Install dusk[{_EXTRAS[package]}].")
