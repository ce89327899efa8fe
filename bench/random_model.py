"""A random checkpoint in bfloat16, fast to make: `python -m bench.random_model CONFIG OUT SEED`, a child.

Values are drawn from one pool of normal numbers; neither copies nor merges go faster for it.
"""

import json
import sys
from math import prod
from pathlib import Path

import numpy as np

_POOL = 1 << 22


def shapes(config: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama with a head of its own, or the tied one."""
    hidden, inner, vocabulary = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    size = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        parts = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, inner),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.v_proj": (keys, hidden),
        }
        found |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in parts.items()}
    found["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        found["lm_head.weight"] = (vocabulary, hidden)
    return found


def write_random_model(config: dict[str, int], out: Path, seed: int) -> None:
    """config.json and one safetensors file."""
    random = np.random.default_rng(seed)
    normal = random.standard_normal(_POOL, dtype=np.float32) * np.float32(0.02)
    pool = (normal.view(np.uint32) >> 16).astype(np.uint16)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position, sizes = 0, []
    for name, shape in shapes(config).items():
        end = position + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        sizes.append(prod(shape))
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    with (out / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for size in sizes:
            begin = int(random.integers(_POOL))
            values = np.concatenate([pool[begin:], pool[:begin]])
            for start in range(0, size, _POOL):
                file.write(values[: size - start].tobytes())


if __name__ == "__main__":
    write_random_model(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), int(sys.argv[3]))
