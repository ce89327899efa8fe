"""Reading the YAML of a recipe: a key that stands twice is an error."""

from pathlib import Path
from typing import Any

import yaml

from dusk.errors import RecipeError


def read_yaml(path: Path) -> Any:
    """The content of a file; raises RecipeError where it cannot be read or is no YAML."""
    try:
        return yaml.load(path.read_bytes(), Loader=_Loader)
    except OSError as error:
        what = error.strerror or str(error)
        raise RecipeError(f"{path}: {what}.", remedy="Give the path of a recipe.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {_where(error)}.") from None


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error rather than a silent loss."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that the same mapping already has."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}: {what}" if mark is not None else what
