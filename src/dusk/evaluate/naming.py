"""What models are called in results, and where they lie."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dusk.checkpoint import resolve
from dusk.errors import Faults, SettingError

Models = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


def name_models(models: Models) -> dict[str, str | Path]:
    """Models by the name that they get: the folder's or repository's, longer where two are alike."""
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        given = [models] if isinstance(models, str | Path) else list(models)
        paths = [Path(str(model).rstrip("/")) for model in given]
        if len(set(paths)) < len(paths):
            twice = sorted({str(path) for path in paths if paths.count(path) > 1})
            raise SettingError("a model is given twice", problems=twice)
        named = dict(zip(_shortest_names(paths), given, strict=True))
    if not named:
        raise SettingError("there is no model to evaluate", remedy="Name at least one folder or hub id.")
    return named


def model_folders(named: Mapping[str, str | Path], check: Callable[[Path], object]) -> dict[str, Path]:
    """Each model's folder, looked at by `check`; raises the errors of all models at once."""
    folders, faults = {}, Faults()
    for name, model in named.items():
        with faults:
            folders[name] = resolve(model)
            check(folders[name])
    faults.raise_any(f"{len(faults)} of {len(named)} models cannot be evaluated")
    return folders


def _shortest_names(paths: Sequence[Path]) -> list[str]:
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
