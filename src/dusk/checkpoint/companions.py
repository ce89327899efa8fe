"""The files that go with the weights: tokenizer, generation settings, chat template, licence."""

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
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "*.py",  # what a config's auto_map names: copied, never run
)


def companions(folder: Path) -> list[Path]:
    """The files and folders of a model that do not depend on its depth."""
    return sorted(
        entry for entry in folder.iterdir() if any(fnmatch(entry.name, pattern) for pattern in _PATTERNS)
    )


def carry_over(source: Path, target: Path) -> list[str]:
    """Copies the companions byte for byte; their names."""
    entries = companions(source)
    for entry in entries:
        if entry.is_dir():
            shutil.copytree(entry, target / entry.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(entry, target / entry.name)
    return [entry.name for entry in entries]
