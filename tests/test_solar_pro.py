"""Solar Pro in transformers against the published rule, written out by hand in solar_reference.py."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
)
from transformers.masking_utils import flash_attention_mask
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from dusk.skips import PUBLISHED
from dusk.solar_pro import (
    SolarConfig,
    SolarForCausalLM,
    SolarForSequenceClassification,
    SolarModel,
    skip_weight,
)
from dusk.train.attention import packed, packing_of
from dusk.train.support import require_trainable
from solar_models import SIZES, plain, random_skips, solar_config, solar_model, tokens_of
from solar_reference import logits_of

# config.json of upstage/solar-pro-preview-instruct
PUBLISHED_CONFIG: dict[str, Any] = {
    "architectures": ["SolarForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_solar.SolarConfig",
        "AutoModelForCausalLM": "modeling_solar.SolarForCausalLM",
    },
    "model_type": "solar",
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
    "num_hidden_layers": 64,
    "vocab_size": 32128,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 32007,
    "bskcn_1": [12, 20, 32, 44],
    "bskcn_2": [20, 32],
    "bskcn_3": [16, 24, 36, 48],
    "bskcn_4": [28, 40],
    "bskcn_tv": [0.9, 0.8],
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.2",
}
LAYER_TENSORS = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
]
SHAPES = {  # every slot used, nested, adjacent, both at once, absent, past the last layer
    "none": "",
    "nested": "1-6,2-4",
    "adjacent": "1-2,2-3,3-4",
    "shared store": "1-3,1-5,4-7",
    "both at once": "0-4,2-4",
}


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest logit."""
    return float((found.detach().double() - expected).abs().max() / expected.abs().max())


def reference(model: SolarForCausalLM, row: Tensor, **mode: bool) -> Tensor:
    return logits_of(row, model.state_dict(), plain(model.config), **mode)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("seed", range(10))
def test_logits_are_those_of_the_rule(seed: int, attention: str) -> None:
    layers = 5 + seed
    window = [None, 5, 2047][seed % 3]
    model = solar_model(
        random_skips(seed, layers), layers, seed, sliding_window=window, attn_implementation=attention
    )
    assert model.config._attn_implementation == attention
    row = tokens_of(model, 12, seed=seed)
    for training in (False, True):
        found = model.train(training)(row[None], use_cache=False).logits[0]
        assert difference(found, reference(model, row, training=training)) < 1e-6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("spec", SHAPES.values(), ids=SHAPES)
def test_shapes_of_skips(spec: str, attention: str) -> None:
    how: dict[str, Any] = {"sliding_window": 5, "attn_implementation": attention}
    lists = {f"bskcn_{i}": [] for i in range(1, 5)}
    model = (
        solar_model(spec, seed=3, **how)
        if spec
        else SolarForCausalLM(SolarConfig(**SIZES, num_hidden_layers=8, **lists, **how)).eval()
    )
    row = tokens_of(model, 9)
    expected = reference(model, row)
    assert difference(model(row[None]).logits[0], expected) < 1e-6
    first = model(row[None, :6], use_cache=True)
    second = model(row[None, 6:], past_key_values=first.past_key_values, use_cache=True)
    assert difference(torch.cat([first.logits, second.logits], dim=1)[0], expected) < 1e-6


def test_the_published_lists_and_those_past_the_last_layer() -> None:
    for layers in (64, 32, 22):  # 22: stored at 20, never used
        model = solar_model(PUBLISHED, layers, hidden_size=16, intermediate_size=24)
        row = tokens_of(model, 6)
        assert difference(model(row[None]).logits[0], reference(model, row)) < 1e-6


def test_the_tests_would_see_another_rule() -> None:
    model = solar_model("1-4,2-6")
    row = tokens_of(model, 9)
    found = model(row[None]).logits[0]
    for change in ({"bskcn_tv": [0.9, 0.81]}, {"bskcn_3": [5]}, {"bskcn_2": []} | {"bskcn_4": []}):
        other = logits_of(row, model.state_dict(), {**plain(model.config), **change})
        assert difference(found, other) > 1e-4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [None, 4])
def test_the_cache_changes_nothing_past_the_window_either(window: int | None, attention: str) -> None:
    model = solar_model("1-4,2-6,5-7", sliding_window=window, attn_implementation=attention)
    row = tokens_of(model, 14)
    expected = reference(model, row)
    cache, steps = None, []
    for chunk in row.split([6, 1, 1, 3, 1, 1, 1]):
        out = model(chunk[None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits[0])
    assert difference(torch.cat(steps), expected) < 1e-6


def flash(
    _: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int,
    **__: Any,
) -> tuple[Tensor, None]:
    """Written out, what a kernel of flash attention does: no mask, but the window as a number; (B, A, T, D)."""
    assert mask is None
    k, v = (states.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for states in (k, v))
    past = k.shape[2] - q.shape[2]
    distance = torch.arange(q.shape[2])[:, None] + past - torch.arange(k.shape[2])
    unseen = (distance < 0) | (distance >= sliding_window)
    scores = (q @ k.mT * scaling).masked_fill(unseen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2), None


def test_flash_attention_is_handed_the_window() -> None:
    AttentionInterface.register("kernel_by_hand", flash)
    AttentionMaskInterface.register("kernel_by_hand", flash_attention_mask)
    model = solar_model("1-4,2-6,5-7", sliding_window=4, attn_implementation="kernel_by_hand")
    row = tokens_of(model, 14)
    assert difference(model(row[None], use_cache=False).logits[0], reference(model, row)) < 1e-6
    cache, steps = None, []
    for chunk in row.split([6, 1, 3, 4]):
        out = model(chunk[None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits[0])
    assert difference(torch.cat(steps), reference(model, row)) < 1e-6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str, attention: str) -> None:
    model = solar_model("1-4,2-6", sliding_window=5, attn_implementation=attention)
    rows = [tokens_of(model, length, seed=length) for length in (4, 11, 7)]
    padded, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long)
    places = [slice(11 - len(row), 11) if side == "left" else slice(len(row)) for row in rows]
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        padded[i, place], mask[i, place] = row, 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(padded, attention_mask=mask, position_ids=positions).logits
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        assert difference(logits[i, place], reference(model, row)) < 1e-6


def greedy(model: SolarForCausalLM, row: Tensor, count: int) -> list[int]:
    for _ in range(count):
        row = torch.cat([row, reference(model, row)[-1:].argmax(-1)])
    return row.tolist()


def test_generation_is_greedy_by_the_rule_cached_or_not_and_in_a_padded_batch() -> None:
    model = solar_model("1-4,2-6,5-7", sliding_window=6)
    short, long = tokens_of(model, 4, seed=1), tokens_of(model, 9, seed=2)
    batch = torch.stack([torch.cat([torch.zeros(5, dtype=torch.long), short]), long])
    mask = (batch != 0).long()
    expected = [greedy(model, short, 8), greedy(model, long, 8)]
    for use_cache in (True, False):
        made = model.generate(
            batch, attention_mask=mask, max_new_tokens=8, do_sample=False, use_cache=use_cache
        )
        assert made[0, 5:].tolist() == expected[0]
        assert made[1].tolist() == expected[1]


def test_beams_are_scored_by_the_rule() -> None:
    model = solar_model("1-4,2-6,5-7", sliding_window=6)
    row = tokens_of(model, 5)
    made = model.generate(
        row[None],
        attention_mask=torch.ones(1, 5),
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=6,
        do_sample=False,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert len({tuple(sequence.tolist()) for sequence in made.sequences}) == 3
    for sequence, score in zip(made.sequences, made.sequences_scores, strict=True):
        logps = reference(model, sequence).log_softmax(-1)[4:-1]
        total = logps.gather(-1, sequence[5:, None]).sum()
        assert abs(float(total) - float(score)) < 1e-5


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_gradients_are_those_of_the_rule_with_checkpointing_and_without(reentrant: bool | None) -> None:
    model = solar_model("1-4,2-6,5-7", sliding_window=5).train()
    row = tokens_of(model, 9)
    weights = {name: tensor.double().requires_grad_() for name, tensor in model.state_dict().items()}
    expected = logits_of(row, weights, plain(model.config), training=True)
    torch.nn.functional.cross_entropy(expected[:-1], row[1:]).backward()
    if reentrant is not None:
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable({"use_reentrant": reentrant})
        assert all(layer.gradient_checkpointing for layer in model.model.layers)
    model(row[None], labels=row[None], use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        wanted = weights[name].grad
        assert wanted is not None
        assert parameter.grad is not None
        scale = max(float(wanted.abs().max()), 1e-3)
        assert float((parameter.grad - wanted).abs().max()) < 2e-6 * scale, name


def test_packed_documents_do_not_see_each_other() -> None:
    model = solar_model("1-4,2-6", sliding_window=5)
    lengths = (7, 3, 8)
    row = tokens_of(model, sum(lengths))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    packing = packing_of(torch.tensor([0, *lengths]).cumsum(0))
    with packed(model):
        states = model.model(row[None], position_ids=positions, use_cache=False, packing=packing)
    found = model.lm_head(states.last_hidden_state[0]).split(lengths)
    for logits, document in zip(found, row.split(lengths), strict=True):
        assert difference(logits, reference(model, document)) < 1e-6
    require_trainable(model)


def test_the_weight_of_the_skips_can_be_fixed() -> None:
    model = solar_model("1-4,2-6")
    row = tokens_of(model, 9)
    inference, training = reference(model, row), reference(model, row, training=True)
    assert difference(training, inference) > 1e-3
    with skip_weight(model, "training"):
        assert difference(model.eval()(row[None]).logits[0], training) < 1e-6
        with skip_weight(model, "inference"):
            assert difference(model.train()(row[None]).logits[0], inference) < 1e-6
        assert difference(model(row[None]).logits[0], training) < 1e-6
    assert difference(model.eval()(row[None]).logits[0], inference) < 1e-6
    assert difference(model.train()(row[None]).logits[0], training) < 1e-6
    with pytest.raises(ValueError, match="it is auto, training or inference"), skip_weight(model, "eval"):  # type: ignore[arg-type]
        pass


def test_exactly_the_published_parameters_and_names() -> None:
    config = SolarConfig.from_dict(PUBLISHED_CONFIG)
    with torch.device("meta"):
        model = SolarForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_140_032_000
    expected = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    expected |= {f"model.layers.{i}.{name}.weight" for i in range(64) for name in LAYER_TENSORS}
    assert set(model.state_dict()) == expected
    assert len(expected) == 3 + 64 * 9
    assert (config.rope_parameters["rope_theta"], config.head_dim, config.dtype) == (1e4, 128, torch.bfloat16)


def test_the_defaults_are_those_of_the_published_class() -> None:
    config = SolarConfig()
    for key, value in {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "sliding_window": 2047,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **{key: PUBLISHED_CONFIG[key] for key in PUBLISHED_CONFIG if key.startswith("bskcn")},
    }.items():
        assert getattr(config, key) == value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"bskcn_1": [-1]}, "bskcn_1 names layer -1"),
        ({"bskcn_3": [24, 16, 36, 48]}, "bskcn_3 is out of order"),
        ({"bskcn_1": [12, 20, 30, 32, 44]}, "bskcn_1 stores at layer 30 what bskcn_3 never uses"),
        ({"bskcn_4": [10, 28, 40]}, "bskcn_4 uses slot 2 at layer 10 before bskcn_2 stores anything"),
        ({"bskcn_tv": [0.9, 0.8, 0.7]}, "bskcn_tv is [0.9, 0.8, 0.7]; it is two numbers"),
    ],
)
def test_a_config_with_faulty_skips_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError) as caught:
        SolarConfig(**fields)
    assert words in str(caught.value)


class Operations(TorchDispatchMode):
    """Counts what is computed, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_the_skips_are_six_operations_and_nothing_else() -> None:
    """The published lists: six blends, where the issue of cost allows twelve element-wise operations."""
    sizes = {**SIZES, "num_hidden_layers": 64, "hidden_size": 16, "intermediate_size": 16}
    solar = SolarForCausalLM(SolarConfig(**sizes, **PUBLISHED.to_config(), sliding_window=None)).eval()
    llama = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    row = tokens_of(solar, 1, 5)
    counted = []
    for model in (solar, llama):
        with Operations() as operations, torch.no_grad():
            model(row)
        counted.append(operations.counts)
    assert counted[0] - counted[1] == {"aten.lerp.Scalar": 6}
    assert counted[1] - counted[0] == {}


def test_sequence_classification_scores_the_last_token() -> None:
    torch.manual_seed(0)
    config = solar_config("1-4,2-6", num_labels=3)
    model = SolarForSequenceClassification(config).eval()
    rows = torch.tensor([[5, 9, 7, 0, 0], [8, 3, 4, 6, 11]])
    logits = model(rows, attention_mask=(rows != 0).long()).logits
    for i, length in enumerate((3, 5)):
        states = model.model(rows[i : i + 1, :length]).last_hidden_state[0, -1]
        assert torch.allclose(logits[i], states @ model.score.weight.T, atol=1e-6)


def test_auto_classes_load_what_was_saved(tmp_path: Path) -> None:
    model = solar_model("1-4,2-6", seed=5)
    model.save_pretrained(tmp_path / "model")
    row = tokens_of(model, 8)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert isinstance(loaded, SolarForCausalLM)
    assert torch.equal(loaded(row[None]).logits, model(row[None]).logits)
    assert json.loads((tmp_path / "model/config.json").read_text())["bskcn_2"] == [2]
    judge = AutoModelForSequenceClassification.from_config(solar_config("1-4", num_labels=2))
    assert isinstance(judge, SolarForSequenceClassification)


def test_the_published_config_loads_without_remote_code(tmp_path: Path) -> None:
    """auto_map names files that are not there: nothing of the folder is run."""
    small = PUBLISHED_CONFIG | {key: SIZES[key] for key in ("hidden_size", "intermediate_size", "vocab_size")}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 2, "num_hidden_layers": 64}
    (tmp_path / "config.json").write_text(json.dumps(small))
    config = AutoConfig.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    assert (type(config), type(model), model.dtype) == (SolarConfig, SolarForCausalLM, torch.bfloat16)
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.config.bskcn_3 == [16, 24, 36, 48]


def test_layers_on_the_disk_take_the_slots_along(tmp_path: Path) -> None:
    model = solar_model("1-4,2-6")
    model.save_pretrained(tmp_path / "model")
    row = tokens_of(model, 8)
    places: dict[str, str] = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "disk" if i in (2, 4, 5) else "cpu" for i in range(8)}
    places["model.rotary_emb"] = "cpu"
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "away", dtype=torch.float32
    )
    with torch.no_grad():
        assert torch.equal(spread(row[None]).logits, model(row[None]).logits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_layers_on_two_devices_take_the_slots_along(tmp_path: Path) -> None:
    model = solar_model("1-4,2-6")
    model.save_pretrained(tmp_path / "model")
    row = tokens_of(model, 8)
    places: dict[str, Any] = {
        "model.embed_tokens": "cpu",
        "model.norm": 0,
        "lm_head": 0,
        "model.rotary_emb": "cpu",
    }
    places |= {f"model.layers.{i}": "cpu" if i < 3 else 0 for i in range(8)}
    spread = AutoModelForCausalLM.from_pretrained(tmp_path / "model", device_map=places, dtype=torch.float32)
    assert difference(spread(row[None]).logits[0].cpu(), reference(model, row)) < 1e-4


def test_compiled_it_is_one_graph() -> None:
    model = solar_model("1-2,1-3", 4)
    row = tokens_of(model, 1, 8)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(row, use_cache=False).logits, model(row, use_cache=False).logits)
        with skip_weight(model, "training"):
            again = compiled(row, use_cache=False).logits
            assert torch.equal(again, model(row, use_cache=False).logits)


def test_the_front_door_stays_light() -> None:
    """`import dusk` and the rule of the skips need no torch; the room itself registers by its import."""
    script = (
        "import sys, dusk, dusk.skips; assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "import transformers\n"
        "from transformers.models.auto.configuration_auto import CONFIG_MAPPING\n"
        "assert 'solar' not in CONFIG_MAPPING\n"
        "import dusk.solar_pro; assert 'solar' in CONFIG_MAPPING"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def test_a_model_is_what_its_classes_say() -> None:
    assert SolarModel.config_class is SolarConfig
    assert SolarConfig.base_model_pp_plan is None  # a stage without slots would be wrong without a word
