"""Small random models of many architectures, and the same depth surgery done by hand with transformers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from conftest import SIZES

F, S, C, L = "full_attention", "sliding_attention", "chunked_attention", "linear_attention"
PLAIN = "0-2,1-3"
TARGETS = {"0-2,1-3": [0, 1, 2, 1, 2, 3], "0-2,0-3": [0, 1, 2, 0, 1, 2, 3], "0-1,1-3": [0, 1, 1, 2, 3]}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 4,
          "image_size": 16, "patch_size": 8}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """`config` makes the model; `expected` are the fields of the config after the map, as a person would write
    them; `layers` leads to the list of layers in the class `model`."""

    model: str
    config: dict[str, Any]
    layers: str = "model.layers"
    expected: dict[str, Any] = field(default_factory=dict)
    map: str = PLAIN
    nested: str = ""
    identity: bool = True
    generates: bool = True

    @property
    def source(self) -> list[int]:
        return TARGETS[self.map]


def _causal(name: str, model_type: str, **rest: Any) -> Architecture:
    settings = {key: rest.pop(key) for key in ("layers", "expected", "map", "identity") if key in rest}
    return Architecture(f"{name}ForCausalLM", {"model_type": model_type, **rest}, **settings)


GEMMA = {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}
GEMMA3 = {"model_type": "gemma3_text", "_sliding_window_pattern": 3, "layer_types": [S, S, F, S], **GEMMA}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _causal("Llama", "llama"),
    "mistral": _causal("Mistral", "mistral", sliding_window=6),
    "qwen2": _causal("Qwen2", "qwen2", tie_word_embeddings=True, use_sliding_window=True, sliding_window=4,
                     max_window_layers=2, expected={"layer_types": [F, F, S, F, S, S]}),
    "qwen3": _causal("Qwen3", "qwen3", head_dim=8, expected={"layer_types": [F] * 6}),
    "gemma2": _causal("Gemma2", "gemma2", **GEMMA, map="0-2,0-3",
                      expected={"layer_types": [S, F, S, S, F, S, F]}),
    "gemma3_text": _causal("Gemma3", **GEMMA3, expected={"layer_types": [S, S, F, S, F, S]}),
    "gemma3": Architecture(
        "Gemma3ForConditionalGeneration",
        {"model_type": "gemma3", "text_config": {**SIZES, "num_hidden_layers": 4, **GEMMA3},
         "vision_config": VISION, "mm_tokens_per_image": 1},
        layers="model.language_model.layers",
        expected={"layer_types": [S, S, F, S, F, S]}, nested="text_config"),
    "phi3": _causal("Phi3", "phi3"),
    "gpt2": Architecture("GPT2LMHeadModel", {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 4},
                         layers="transformer.h"),
    "gpt_neox": _causal("GPTNeoX", "gpt_neox", layers="gpt_neox.layers"),
    "gpt_neox_serial": _causal("GPTNeoX", "gpt_neox", use_parallel_residual=False, layers="gpt_neox.layers"),
    "phi": _causal("Phi", "phi"),
    "mixtral": _causal("Mixtral", "mixtral", **MOE),
    "qwen3_moe": _causal("Qwen3Moe", "qwen3_moe", head_dim=8, mlp_only_layers=[1], **MOE,
                         expected={"mlp_only_layers": [1, 3]}),
    "qwen3_moe_steps": _causal("Qwen3Moe", "qwen3_moe", head_dim=8, decoder_sparse_step=2, **MOE,
                               map="0-2,0-3",
                               expected={"mlp_only_layers": [0, 2, 3, 5], "decoder_sparse_step": 1}),
    "olmo2": _causal("Olmo2", "olmo2"),
    "llama4_text": Architecture(
        "Llama4ForCausalLM",
        {"model_type": "llama4_text", "head_dim": 8, "intermediate_size_mlp": 48, "attention_chunk_size": 4,
         "interleave_moe_layer_step": 2, "no_rope_layer_interval": 2, **MOE},
        map="0-2,0-3",
        expected={"no_rope_layers": [1, 0, 1, 1, 0, 1, 0], "moe_layers": [1, 4, 6],
                  "layer_types": [C, F, C, C, F, C, F]}),
    "deepseek_v3": _causal("DeepseekV3", "deepseek_v3", first_k_dense_replace=1, n_routed_experts=4, n_group=1,
                           topk_group=1, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16,
                           qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, **MOE,
                           expected={"first_k_dense_replace": 1}),
    "qwen3_next": _causal("Qwen3Next", "qwen3_next", head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
                          linear_key_head_dim=8, linear_value_head_dim=8, shared_expert_intermediate_size=16,
                          layer_types=[L, F, L, F], **MOE,
                          expected={"layer_types": [L, F, L, F, L, F]}),
    "gpt_oss": _causal("GptOss", "gpt_oss", head_dim=8, sliding_window=4, **MOE, map="0-2,0-3",
                       expected={"layer_types": [S, F, S, S, F, S, F]}),
    "exaone4": _causal("Exaone4", "exaone4", sliding_window=4, sliding_window_pattern=2,
                       expected={"layer_types": [S, F, S, F, S, F]}),
    "glm4": _causal("Glm4", "glm4", head_dim=8),
    "lfm2": _causal("Lfm2", "lfm2", layer_types=["conv", F, "conv", F],
                    expected={"layer_types": ["conv", F] * 3}),
    "opt": _causal("OPT", "opt", ffn_dim=48, word_embed_proj_dim=32, layers="model.decoder.layers"),
    "gptj": _causal("GPTJ", "gptj", n_embd=32, n_head=4, n_layer=4, rotary_dim=4, layers="transformer.h"),
    "falcon": _causal("Falcon", "falcon", new_decoder_architecture=True, num_kv_heads=2, layers="transformer.h"),
    "mpt": Architecture("MptForCausalLM", {"model_type": "mpt", "d_model": 32, "n_heads": 4, "n_layers": 4},
                        layers="transformer.blocks"),
    "jamba": _causal("Jamba", "jamba", attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
                     expert_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4, use_mamba_kernels=False, **MOE),
    "llava": Architecture(
        "LlavaForConditionalGeneration",
        {"model_type": "llava", "image_token_id": 5,
         "text_config": {**SIZES, "model_type": "llama", "num_hidden_layers": 4},
         "vision_config": {"model_type": "clip_vision_model", "projection_dim": 32, **VISION}},
        layers="model.language_model.layers", nested="text_config"),
    "bert": Architecture("BertModel", {"model_type": "bert", "num_hidden_layers": 4},
                         layers="encoder.layer", identity=False, generates=False),
    "vit": Architecture("ViTForImageClassification", {"model_type": "vit", **VISION},
                        layers="vit.layers", generates=False),
    "t5": Architecture("T5ForConditionalGeneration",
                       {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4,
                        "num_layers": 4, "num_decoder_layers": 4, "decoder_start_token_id": 0},
                       layers="decoder.block"),
}  # fmt: skip


def save(folder: Path, architecture: Architecture, dtype: str = "float32") -> Path:
    """A random model with every parameter away from its initial value, so that a mix-up shows."""
    torch.manual_seed(0)
    sizes = {} if architecture.nested else {**SIZES, "num_hidden_layers": 4, "pad_token_id": 0}
    if {"n_layer", "n_layers", "num_layers"} & architecture.config.keys():
        del sizes["num_hidden_layers"]
    config = transformers.AutoConfig.for_model(**{**sizes, **architecture.config})
    model = getattr(transformers, architecture.model)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def load(folder: Path, architecture: Architecture) -> Any:
    """The model of a folder as transformers loads it, with nothing missing or left over."""
    model, loading = getattr(transformers, architecture.model).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(loading.values()), loading
    return model.eval()


def by_hand(folder: Path, architecture: Architecture) -> Any:
    """The independent reference: a new model of a config written by hand, each layer filled from the base's."""
    base, config = load(folder, architecture), transformers.AutoConfig.from_pretrained(folder)
    scope = getattr(config, architecture.nested) if architecture.nested else config
    count = "num_decoder_layers" if architecture.config["model_type"] == "t5" else "num_hidden_layers"
    for key, value in {count: len(architecture.source), **architecture.expected}.items():
        setattr(scope, key, value)
    deeper = type(base)(config).to(base.dtype)
    ours, theirs = (model.get_submodule(architecture.layers) for model in (deeper, base))
    assert len(ours) == len(architecture.source)
    for layer, source in zip(ours, architecture.source, strict=True):
        layer.load_state_dict(theirs[source].state_dict())
    rest = {k: v for k, v in base.state_dict().items() if not k.startswith(f"{architecture.layers}.")}
    missing, unexpected = deeper.load_state_dict(rest, strict=False)
    assert not unexpected
    assert all(name.startswith(f"{architecture.layers}.") for name in missing)
    return deeper.eval()


def inputs(architecture: Architecture) -> dict[str, torch.Tensor]:
    """What the model takes for one forward pass."""
    torch.manual_seed(1)
    if architecture.config["model_type"] == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16)}
    ids = torch.randint(6, 90, (2, 14))
    more = {"decoder_input_ids": ids[:, :9]} if architecture.config["model_type"] == "t5" else {}
    return {"input_ids": ids, **more}


def output(model: Any, architecture: Architecture) -> torch.Tensor:
    """The logits, or the last hidden state of a model without a head; no cache is used."""
    extra = {"use_cache": False} if architecture.generates else {}
    found = model(**inputs(architecture), **extra)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def token_by_token(model: Any, architecture: Architecture) -> torch.Tensor:
    """The same logits through the KV cache."""
    given, steps, cache = inputs(architecture), [], None
    key = list(given)[-1]
    for step in given[key].split(1, dim=1):
        found = model(**{**given, key: step}, past_key_values=cache, use_cache=True)
        cache = found.past_key_values
        steps.append(found.logits)
    return torch.cat(steps, dim=1)
