"""Neighbours of a text: what the reference writes after its first words, kept in a file if there is one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from dusk.data.server import Cache
from dusk.evaluate.contamination.statistics import split_words

if TYPE_CHECKING:
    from dusk.evaluate.contamination.language import Language


class Neighbours:
    """Draws so many continuations of each text, of as many tokens as it has words left."""

    def __init__(self, reference: "Language", samples: int, file: Path | None) -> None:
        self.reference, self.samples = reference, samples
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        self.kept = Cache(file) if file is not None else None

    def of(self, text: str, *, seed: int) -> list[str]:
        """The neighbours of a text, the same for the same reference and seed."""
        prefix, left = split_words(text)
        if self.kept is None:
            return self._drawn(prefix, left, seed)
        asked = {"prefix": prefix, "most_tokens": left, "samples": self.samples, "seed": seed}
        key = Cache.key(asked | {"reference": self.reference.digest})
        if key not in self.kept.answers:
            self.kept.keep(key, json.dumps(self._drawn(prefix, left, seed), ensure_ascii=False))
        found: list[str] = json.loads(self.kept.answers[key])
        return found

    def close(self) -> None:
        """Close the file."""
        if self.kept is not None:
            self.kept.close()

    def _drawn(self, prefix: str, left: int, seed: int) -> list[str]:
        import torch  # lazy: importing the room needs none

        torch.manual_seed(seed)
        return self.reference.continuations(prefix, self.samples, most_tokens=left)
