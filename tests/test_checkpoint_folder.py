"""Opening model folders: layouts found by structure, indexes, and folders that are no model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import save_random_model
from dusk.checkpoint import Layout, find_layout, inspect_checkpoint, open_checkpoint, resolve
from dusk.checkpoint.expected import expected_tensors
from dusk.checkpoint.header import TensorEntry
from dusk.errors import CheckpointError

Models = Callable[..., Path]
Copy = Callable[..., Path]


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("bias", [False, True])
def test_expected_tensors_are_those_of_transformers(model_folder: Models, variant: str, bias: bool) -> None:
    folder = model_folder(variant, attention_bias=bias, mlp_bias=bias)
    checkpoint = open_checkpoint(folder)
    expected = expected_tensors(checkpoint.config, checkpoint.layout.layers)
    assert expected == {name: entry.shape for name, entry in checkpoint.tensors.items()}


def test_sizes_agree_with_the_loaded_model(model_folder: Models) -> None:
    from transformers import AutoModelForCausalLM

    for variant in ("llama", "qwen2"):
        model = AutoModelForCausalLM.from_pretrained(model_folder(variant))
        assert open_checkpoint(model_folder(variant)).parameters == model.num_parameters()


def test_shipped_models_by_name() -> None:
    found = {name: inspect_checkpoint(f"dusk:{name}").parameters for name in ("constant", "decayed")}
    assert found == {"constant": 451_648, "decayed": 451_648}
    assert resolve("dusk:constant") != resolve("dusk:decayed")
    with pytest.raises(CheckpointError, match=r"dusk:grown: dusk ships no such model") as caught:
        resolve("dusk:grown")
    assert "dusk:constant, dusk:decayed" in str(caught.value)


def test_one_file_and_shards_hold_the_same(model_folder: Models) -> None:
    one, many = open_checkpoint(model_folder("llama")), open_checkpoint(model_folder("llama", shard="40KB"))
    assert one.layout == many.layout == Layout("model.layers", 8, "num_hidden_layers")
    assert {n: e.shape for n, e in one.tensors.items()} == {n: e.shape for n, e in many.tensors.items()}
    assert one.total_bytes == many.total_bytes
    assert one.header_digest() == open_checkpoint(one.path).header_digest() != many.header_digest()


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_digests_tell_models_of_one_shape_apart(
    model_folder: Models, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("dusk.checkpoint.folder.WHOLE_DIGEST_BYTES", limit)
    a, b = (open_checkpoint(model_folder("llama", seed=seed)) for seed in (1, 2))
    assert a.header_digest() == b.header_digest()
    assert a.digest() == open_checkpoint(a.path).digest() != b.digest()
    assert a.digest().startswith("sha256:" if limit else "sampled-sha256:")


@pytest.mark.parametrize(
    ("config", "prefix", "key"),
    [
        ({"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 3}, "transformer.h", "n_layer"),
        ({"model_type": "gpt_neox", "num_hidden_layers": 3}, "gpt_neox.layers", "num_hidden_layers"),
        (
            {"model_type": "mixtral", "num_hidden_layers": 3, "num_local_experts": 3},
            "model.layers",
            "num_hidden_layers",
        ),
    ],
)
def test_layers_are_found_by_structure(tmp_path: Path, config: dict[str, Any], prefix: str, key: str) -> None:
    layout = open_checkpoint(save_random_model(tmp_path / "m", **config)).layout
    assert (layout.prefix, layout.layers, layout.count_key) == (prefix, 3, key)


def entries(*names: str) -> dict[str, TensorEntry]:
    return {name: TensorEntry(Path("x"), "U8", (1,), i, i + 1) for i, name in enumerate(names)}


def test_nested_text_configs_and_other_stacks() -> None:
    tensors = entries(
        "vision.blocks.0.w", "vision.blocks.1.w", "text.layers.0.w", "text.layers.1.w", "text.layers.1.e.0.w",
        "text.layers.0.e.0.w", "text.norm.w",
    )  # fmt: skip
    config = {"vision_config": {"num_hidden_layers": 2}, "text_config": {"num_hidden_layers": 2}}
    layout = find_layout(config, tensors)
    assert (layout.prefix, layout.config_path) == ("text.layers", ("text_config",))
    assert layout.scope(config) == {"num_hidden_layers": 2}
    assert layout.split("text.layers.1.e.0.w") == (1, "e.0.w")
    assert layout.split("vision.blocks.1.w") is None
    with pytest.raises(CheckpointError, match="how many layers"):
        find_layout({"num_hidden_layers": True}, tensors)
    with pytest.raises(CheckpointError) as caught:
        find_layout({"num_hidden_layers": 3}, entries("h.0.w", "h.2.w", "g.0.w"))
    assert caught.value.problems[1:] == [
        "the tensors have h.0 to h.2 without 1",
        "the tensors have g.0 to g.0",
    ]


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_nextn_predict_layers"])
def test_a_count_beyond_all_memory_is_only_a_number(key: str) -> None:
    tensors = entries("h.0.w", "h.1.w")
    config = {"num_hidden_layers": 2} | {key: 10**15}
    if key == "num_hidden_layers":
        with pytest.raises(CheckpointError, match="do not fit the config"):
            find_layout(config, tensors)
    else:
        assert find_layout(config, tensors).layers == 2


@pytest.mark.parametrize("number", ["01", "\u0661", "9" * 5000, "-1", "1 "])
def test_numbers_that_nobody_writes_name_no_layer(number: str) -> None:
    tensors = entries("h.0.w", "h.1.w", f"h.{number}.w")
    layout = find_layout({"num_hidden_layers": 2}, tensors)
    assert layout.split(f"h.{number}.w") is None
    assert layout.outside(f"h.{number}.w", 3) == f"h.{number}.w"
    with pytest.raises(CheckpointError, match="do not fit the config"):
        find_layout({"num_hidden_layers": 2}, entries("h.0.w", f"h.{number}.w"))


def test_missing_layers_are_told(model_folder: Models, copy_of: Copy) -> None:
    folder = copy_of(model_folder("mistral"))
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if ".layers.2." not in k}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not fit the config") as caught:
        open_checkpoint(folder)
    assert caught.value.problems == [
        "the config says num_hidden_layers = 4",
        "the tensors have model.layers.0 to model.layers.3 without 2",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..",
        "a\\b.safetensors",
        "",
        "a\0.safetensors",
    ],
)
def test_an_index_may_not_leave_its_folder(model_folder: Models, copy_of: Copy, name: str) -> None:
    folder = copy_of(model_folder("llama", shard="40KB"))
    edit(
        folder / "model.safetensors.index.json",
        weight_map={"a": name, "b": 7, "c": "model.bin", "d": "no.safetensors"},
    )
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        open_checkpoint(folder)
    problems = "\n".join(caught.value.problems)
    assert "leaves the folder" in problems
    assert "'7' is no safetensors file" in problems
    assert "'model.bin' is no safetensors file" in problems
    assert "'no.safetensors' does not exist" in problems


def test_an_index_must_fit_its_files(model_folder: Models, copy_of: Copy) -> None:
    folder = copy_of(model_folder("llama", shard="40KB"))
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    swapped = dict(
        zip(weight_map, [*list(weight_map.values())[1:], next(iter(weight_map.values()))], strict=True)
    )
    edit(index, weight_map=swapped)
    with pytest.raises(CheckpointError, match="does not fit its files") as caught:
        open_checkpoint(folder)
    assert " is not in model-0000" in caught.value.problems[0]
    del weight_map["model.norm.weight"]
    edit(index, weight_map=weight_map)
    assert open_checkpoint(folder).unlisted == ("model.norm.weight",)
    for broken in ({}, [], None, {"weight_map": {}}):
        index.write_text(json.dumps(broken))
        with pytest.raises(CheckpointError, match=r"index\.json"):
            open_checkpoint(folder)


def test_a_truncated_shard(model_folder: Models, copy_of: Copy) -> None:
    folder = copy_of(model_folder("llama", shard="40KB"))
    shard = folder / "model-00002-of-00008.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00008.*not a whole") as caught:
        open_checkpoint(folder)
    assert "cut short" in caught.value.problems[0]
    shard.unlink()
    with pytest.raises(CheckpointError, match="cannot be used"):
        open_checkpoint(folder)


def test_pickles_gguf_and_quantised_models_are_refused(model_folder: Models, copy_of: Copy) -> None:
    folder = copy_of(model_folder("llama"))
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(CheckpointError, match=r"quantised \(gptq\)") as caught:
        open_checkpoint(folder)
    assert "quantise the result" in caught.value.remedy
    edit(folder / "config.json", quantization_config=None)
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(CheckpointError, match="GGUF"):
        open_checkpoint(folder)
    (folder / "model.gguf").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles") as caught:
        open_checkpoint(folder)
    assert "save_pretrained" in caught.value.remedy
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(folder)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no model folder") as caught:
        open_checkpoint(tmp_path / "empty")
    assert caught.value.remedy == "It is empty."
    for content in (b"{", b"\xff", b"[1]", b"[" * 200_000):
        (tmp_path / "empty" / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"config\.json (is no JSON|holds no JSON)"):
            open_checkpoint(tmp_path / "empty")


def test_a_missing_folder_names_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mistral-base").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("mistral-bsae", f"{tmp_path}/mistral-bass", "./mistralbase"):
        with pytest.raises(CheckpointError, match="There is no folder") as caught:
            resolve(name)
        assert "mistral-base" in caught.value.remedy
    with pytest.raises(CheckpointError, match="No folder here has a similar name"):
        resolve("zzz")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve("file")
    assert resolve(tmp_path / "mistral-base") == tmp_path / "mistral-base"


def test_hub_ids_go_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    def snapshot_download(repo: str, *, revision: str | None, **_: Any) -> str:
        asked.append((repo, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve("owner/name") == resolve("owner/name@v1.0") == tmp_path
    assert asked == [("owner/name", None), ("owner/name", "v1.0")]

    def unreachable(*_: Any, **__: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        resolve("owner/name")


def test_inspection(model_folder: Models) -> None:
    facts = inspect_checkpoint(model_folder("qwen2", dtype="bfloat16"))
    assert (facts.layers, facts.layer_prefix, facts.count_key) == (4, "model.layers", "num_hidden_layers")
    assert facts.tied_embeddings
    assert list(facts.dtypes) == ["BF16"]
    assert facts.per_layer == {"layer_types": ["full_attention"] * 4}
    assert facts.parameters == sum(facts.parameters_per_layer) + 96 * 32 + 32
    assert facts.total_bytes == 2 * facts.parameters
    assert json.loads(json.dumps(facts.to_json()))["model_type"] == "qwen2"
    assert torch.bfloat16.itemsize * facts.parameters < sum(facts.files.values())
