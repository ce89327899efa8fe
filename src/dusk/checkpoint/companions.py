"""The files that go with the weights: tokenizer, generation settings, chat template, licence."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

_PATTERNS = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template*",
    "additional_chat_templates",
    "*processor_config.json",
    "modules.json",  # a sentence encoder: what comes behind the transformer
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "*.py",  # what a config's auto_map names: copied, never run
)


def companions(folder: Path) -> list[Path]:
    """The files and folders of a model that do not depend on its depth."""
    modules = _module_folders(folder / "modules.json")
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.name in modules or any(fnmatch(entry.name, pattern) for pattern in _PATTERNS)
    )


def _module_folders(file: Path) -> set[str]:
    """The folders that a sentence encoder's modules.json names: pooling, dense layers."""
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
        return {str(module["path"]) for module in modules}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def carry_over(source: Path, target: Path) -> list[str]:
    """Copies the companions byte for byte; their names."""
    entries = companions(source)
    for entry in entries:
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(entry, target / entry.name)
    return [entry.name for entry in entries]
