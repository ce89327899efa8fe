"""Which tensors a Llama-family model must have, and their shapes, from its config alone.

The family: pre-norm blocks of rotary grouped-query attention and a gated MLP (Llama, Mistral, Qwen2,
Qwen3 in transformers; Solar Pro, whose skips have no weights). H hidden, A heads, K key-value heads, D head
size, F MLP width, V vocabulary.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dusk.checkpoint.folder import Checkpoint
from dusk.checkpoint.header import TensorEntry, shown
from dusk.errors import CheckpointError
from dusk.skips import config_problems

LLAMA_FAMILY = ("llama", "mistral", "qwen2", "qwen3", "solar")
HEAD = "lm_head.weight"
_IGNORED_ENDINGS = ("rotary_emb.inv_freq", "attn.masked_bias")

Shape = tuple[int, ...]


def expected_tensors(config: Mapping[str, Any], layers: int) -> dict[str, Shape] | None:
    """The names and shapes of a Llama-family model; None for other architectures.

    Raises `CheckpointError` for a config of the family that misses a size.
    """
    if config.get("model_type") not in LLAMA_FAMILY:
        return None
    vocabulary, hidden = _size(config, "vocab_size"), _size(config, "hidden_size")
    tensors: dict[str, Shape] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    if not is_tied(config):
        tensors[HEAD] = (vocabulary, hidden)
    block = dict(_block(config, hidden))
    for layer in range(layers):
        tensors |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return tensors


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output head is the embedding; the family's default is that it is not."""
    return bool(config.get("tie_word_embeddings", False))


def misfits(checkpoint: Checkpoint) -> list[str]:
    """How the weights differ from what the config asks for; empty where they fit or nothing is known."""
    expected = expected_tensors(checkpoint.config, checkpoint.layout.layers)
    if expected is None:
        return []
    found = checkpoint.tensors
    problems = [f"{name} {shape} is missing" for name, shape in expected.items() if name not in found]
    problems += [
        f"{name} has shape {found[name].shape}, the config asks for {shape}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    problems += [f"{name} has no place in the model" for name in found if _is_foreign(name, expected)]
    return problems


def require_fit(checkpoint: Checkpoint) -> None:
    """Raises `CheckpointError` with every difference between the weights and the config, or fault of its skips."""
    faulty = skip_problems(checkpoint.config)
    if faulty:
        raise CheckpointError(
            f"{checkpoint.path}: the config's skip connections cannot be used.", problems=faulty
        )
    problems = misfits(checkpoint)
    if problems:
        raise CheckpointError(
            f"The weights in {checkpoint.path} do not fit their config.",
            problems=shown(problems),
            remedy="The config belongs to another model, or the checkpoint is incomplete.",
        )


def skip_problems(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the skip connections of a Solar Pro; nothing of other architectures."""
    return config_problems(config) if config.get("model_type") == "solar" else []


def has_redundant_head(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> bool:
    """Whether an output head is stored although the config ties it to the embedding."""
    return is_tied(config) and HEAD in tensors


def _is_foreign(name: str, expected: Mapping[str, Shape]) -> bool:
    return name not in expected and name != HEAD and not name.endswith(_IGNORED_ENDINGS)


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or value < 1:
        raise CheckpointError(f"The config's {key} is {value!r}; it must be a positive whole number.")
    return value


def _block(config: Mapping[str, Any], hidden: int) -> Iterator[tuple[str, Shape]]:
    """The tensors of one layer."""
    heads = _size(config, "num_attention_heads")
    head_size = _size(config, "head_dim", hidden // heads)
    queries = heads * head_size
    keys = _size(config, "num_key_value_heads", heads) * head_size
    width = _size(config, "intermediate_size")
    family = config["model_type"]
    attention_bias = bool(config.get("attention_bias")) and family in ("llama", "qwen3", "solar")
    mlp_bias = bool(config.get("mlp_bias")) and family in ("llama", "solar")
    for name, shape, bias in (
        ("self_attn.q_proj", (queries, hidden), attention_bias or family == "qwen2"),
        ("self_attn.k_proj", (keys, hidden), attention_bias or family == "qwen2"),
        ("self_attn.v_proj", (keys, hidden), attention_bias or family == "qwen2"),
        ("self_attn.o_proj", (hidden, queries), attention_bias),
        ("mlp.gate_proj", (width, hidden), mlp_bias),
        ("mlp.up_proj", (width, hidden), mlp_bias),
        ("mlp.down_proj", (hidden, width), mlp_bias),
    ):
        yield f"{name}.weight", shape
        if bias:
            yield f"{name}.bias", shape[:1]
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    if family == "qwen3":
        yield "self_attn.q_norm.weight", (head_size,)
        yield "self_attn.k_norm.weight", (head_size,)
