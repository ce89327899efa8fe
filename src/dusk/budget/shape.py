"""The sizes of a model that its cost depends on, from config.json alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from dusk.errors import CheckpointError


@dataclass(frozen=True)
class Shape:
    """A dense decoder with gated feed-forward blocks and grouped heads (Llama, Mistral, Qwen).

    Sizes in elements: hidden is the width of the stream, query and key the widths of all (key) heads together.
    """

    layers: int
    hidden: int
    intermediate: int
    query: int
    key: int
    vocabulary: int
    tied: bool = False
    context: int = 4096

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """From the content of a config.json; raises KeyError where a size is missing."""
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            query=heads * size,
            key=(config.get("num_key_value_heads") or heads) * size,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
            context=config.get("max_position_embeddings") or 4096,
        )

    def deeper(self, layers: int) -> "Shape":
        """The same with another number of layers."""
        return replace(self, layers=layers)

    @property
    def layer_parameters(self) -> int:
        """Of one layer: query, key, value and output projection; gate, up and down; two norms."""
        attention = 2 * self.hidden * (self.query + self.key)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def table_parameters(self) -> int:
        """Of the input embedding, the output head (one where they are tied) and the last norm."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    @property
    def largest_matrix(self) -> int:
        """Elements of the largest weight there is."""
        return self.hidden * max(self.vocabulary, self.intermediate, self.query)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.layer_parameters + self.table_parameters


def read_shape(folder: Path) -> Shape:
    """The shape of a model folder, or of a config.json; raises `CheckpointError` where it cannot be told."""
    file = folder / "config.json" if folder.is_dir() else folder
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Shape.of(content.get("text_config") or content)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read as a config: {error}") from error
    except KeyError as error:
        raise CheckpointError(
            f"{file} does not say {error.args[0]}: no budget can be made for it."
        ) from error
