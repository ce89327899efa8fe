"""Models that do not belong together, settings that no method takes, values that are no numbers."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dusk.checkpoint import verify
from dusk.errors import CheckpointError, SettingError
from dusk.merge import merge
from merge_reference import assert_close, mean64, tensors

Models = Callable[..., Path]
Copy = Callable[..., Path]


def test_a_mask_that_differs_has_no_mean(copy_of: Copy, model_folder: Models, tmp_path: Path) -> None:
    folders = [copy_of(model_folder("llama"), str(i)) for i in range(2)]
    for i, folder in enumerate(folders):
        save_file(
            tensors(folder) | {"model.rotary_emb.inv_freq": torch.tensor([1, i])},
            folder / "model.safetensors",
        )
    with pytest.raises(CheckpointError, match="inv_freq is I64, which has no mean"):
        merge(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_different_shapes_are_all_listed(model_folder: Models, tmp_path: Path) -> None:
    a, b = model_folder("llama"), model_folder("llama", num_hidden_layers=7, vocab_size=104)
    with pytest.raises(CheckpointError, match="different models") as caught:
        merge([a, b], tmp_path / "out")
    problems = " ".join(caught.value.problems)
    assert len(caught.value.problems) == 11  # nine tensors of a layer, embedding, head
    assert "lm_head.weight has shape (96, 32)" in problems
    assert "model.layers.7.mlp.up_proj.weight is only in" in problems
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_opened_are_all_named(model_folder: Models, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    absent = [tmp_path / "absent", tmp_path / "empty"]
    with pytest.raises(CheckpointError, match="2 of 3 models cannot be merged") as caught:
        merge([absent[0], model_folder("llama"), absent[1]], tmp_path / "out")
    for model, problem in zip(absent, caught.value.problems, strict=True):
        assert str(model) in problem
    with pytest.raises(CheckpointError) as caught:
        merge([absent[0], absent[0]], tmp_path / "out")
    assert caught.value.problems == []


def test_different_meaning_is_refused_although_shapes_agree(model_folder: Models, tmp_path: Path) -> None:
    a, b = (
        model_folder("llama"),
        model_folder("llama", num_attention_heads=8, num_key_value_heads=4, head_dim=4),
    )
    with pytest.raises(CheckpointError) as caught:
        merge([a, b], tmp_path / "out")
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ]


def test_a_head_apart_has_no_mean_with_one_that_is_tied(model_folder: Models, tmp_path: Path) -> None:
    tied, apart = (model_folder("qwen2", tie_word_embeddings=tie) for tie in (True, False))
    with pytest.raises(CheckpointError, match="different models") as caught:
        merge([tied, apart], tmp_path / "out")
    setting, tensor = caught.value.problems
    assert setting.startswith("tie_word_embeddings is True in")
    assert tensor == f"lm_head.weight is only in {apart}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stored", [0, 1])
def test_a_tied_head_that_is_stored_nevertheless(
    model_folder: Models, copy_of: Copy, tmp_path: Path, stored: int
) -> None:
    """As some exports have it: the copy is left out, whichever model brings it."""
    pair = [copy_of(model_folder("qwen2", seed=seed), str(seed)) for seed in (1, 2)]
    models = [tensors(folder) for folder in pair]
    redundant = models[stored] | {"lm_head.weight": models[stored]["model.embed_tokens.weight"].clone()}
    save_file(redundant, pair[stored] / "model.safetensors", metadata={"format": "pt"})
    report = merge(pair, tmp_path / "out")
    assert_close(tensors(tmp_path / "out"), mean64(models, [1, 1]), models)
    assert report.parameters == sum(value.numel() for value in models[0].values())
    assert report.tensor_bytes == 4 * report.parameters
    assert verify(tmp_path / "out", forward=True).ok


def tokenizer(tokens: Sequence[str], **more: Any) -> str:
    vocab = {token: index for index, token in enumerate(tokens)}
    return json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": [], **more})


def test_tokenizers_are_compared_first(model_folder: Models, copy_of: Copy, tmp_path: Path) -> None:
    a, b = copy_of(model_folder("llama"), "a"), copy_of(model_folder("llama"), "b")
    merge([a, b], tmp_path / "untold")
    (a / "tokenizer.json").write_text(tokenizer(["<s>", "a", "b"]))
    report = merge([a, b], tmp_path / "one")
    assert "no tokenizer" in report.warnings[0]
    (b / "tokenizer.json").write_text(tokenizer(["<s>", "b", "a"]))
    with pytest.raises(CheckpointError, match="different tokenizers") as caught:
        merge([a, b], tmp_path / "out")
    assert caught.value.problems == [
        "'a' is 1 in the first, 2 in the other",
        "'b' is 2 in the first, 1 in the other",
    ]
    (b / "tokenizer.json").write_text(tokenizer(["<s>", "a", "b"], truncation=None))
    (a / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (b / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    assert "eos_token '<end>'" in merge([a, b], tmp_path / "same").warnings[0]
    assert (tmp_path / "same" / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (1, {}, "at least two"),
        (2, {"method": "tize"}, "no merge method"),
        (2, {"weights": [1]}, "1 weights for 2"),
        (2, {"weights": [1, -1]}, "have no mean"),
        (2, {"weights": [1, math.nan]}, "finite numbers"),
        (2, {"t": 0.1}, "belongs to slerp"),
        (2, {"t": 0.5}, "belongs to slerp"),
        (2, {"base_model": "base"}, "belongs to task-arithmetic"),
        (2, {"weights": [[1, 0], [0, 1, 0]]}, "have no mean"),
        (2, {"weights": [[3, -1], 0]}, "changes its sign"),
        (2, {"weights": [[], 1]}, "finite numbers"),
        (1, {"method": "task-arithmetic", "weights": [1]}, "needs `base_model`"),
        (1, {"method": "task-arithmetic", "base_model": "base"}, "`weights` are needed"),
        (2, {"method": "slerp", "t": [0.5, 2]}, "from 0"),
        (2, {"method": "slerp", "weights": [0.5, 0.5]}, "belongs to linear"),
        (2, {"method": "slerp", "t": 1.5}, "from 0"),
        (3, {"method": "slerp"}, "between two"),
    ],
)
def test_bad_settings(
    model_folder: Models, tmp_path: Path, count: int, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        merge([model_folder("llama")] * count, tmp_path / "out", **settings)


def test_values_that_are_not_finite_are_told(model_folder: Models, copy_of: Copy, tmp_path: Path) -> None:
    a = copy_of(model_folder("llama"))
    broken = tensors(a)
    broken["lm_head.weight"][0, 0] = math.inf
    save_file(broken, a / "model.safetensors", metadata={"format": "pt"})
    report = merge([a, model_folder("llama")], tmp_path / "out")
    assert "lm_head.weight" in report.warnings[-1]
