"""Solar Pro's classes as files of a model folder, for programs that cannot import dusk.

The files are this library's own, their imports of one another rewritten; transformers runs them where
`trust_remote_code` is given. They need transformers 5 and torch.
"""

from pathlib import Path
from typing import Any

_FILES = {
    "skips.py": "skips.py",
    "configuration_solar.py": "solar_pro/configuration.py",
    "modeling_solar.py": "solar_pro/modeling.py",
}
_IMPORTS = {
    "from dusk.skips import": "from .skips import",
    "from dusk.solar_pro.configuration import": "from .configuration_solar import",
}
AUTO_MAP = {
    "AutoConfig": "configuration_solar.SolarConfig",
    "AutoModel": "modeling_solar.SolarModel",
    "AutoModelForCausalLM": "modeling_solar.SolarForCausalLM",
    "AutoModelForSequenceClassification": "modeling_solar.SolarForSequenceClassification",
}


def write_remote_code(folder: Path) -> None:
    """Writes the files that `AUTO_MAP` names."""
    package = Path(__file__).parent.parent
    for name, source in _FILES.items():
        text = (package / source).read_text(encoding="utf-8")
        for ours, theirs in _IMPORTS.items():
            text = text.replace(ours, theirs)
        (folder / name).write_text(text, encoding="utf-8")


def with_auto_map(config: dict[str, Any]) -> dict[str, Any]:
    """The config that names the files."""
    return config | {"auto_map": AUTO_MAP}
