"""PyTorch's .bin files: refused unless asked for, then copied as ranges of bytes; nothing in them is run."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dusk.checkpoint import open_checkpoint, verify
from dusk.checkpoint.pickles import read_pickle
from dusk.errors import CheckpointError
from dusk.scale import scale

Models = Callable[..., Path]


def pickled(base: Path, folder: Path, files: int = 1) -> Path:
    """The model with its weights as transformers wrote them before safetensors: a tied head named twice."""
    folder.mkdir()
    shutil.copy(base / "config.json", folder)
    weights = load_file(base / "model.safetensors")
    if json.loads((base / "config.json").read_text()).get("tie_word_embeddings"):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    if files == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    named = {name: f"pytorch_model-{i % files}.bin" for i, name in enumerate(weights)}
    for file in set(named.values()):
        torch.save({name: weights[name] for name in weights if named[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": named}))
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize(("variant", "dtype"), [("llama", "bfloat16"), ("qwen2", "float32")])
def test_pickles_give_the_same_result(
    model_folder: Models, tmp_path: Path, variant: str, dtype: str, files: int
) -> None:
    base = model_folder(variant, dtype=dtype)
    if variant == "qwen2" and files == 3:
        pytest.skip("weights of different files share nothing")
    folder = pickled(base, tmp_path / "pickled", files)
    scale(base, tmp_path / "safe")
    scale(folder, tmp_path / "out", allow_pickle=True)
    found, wanted = tensors(tmp_path / "out"), tensors(tmp_path / "safe")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert verify(tmp_path / "out", forward=True).ok
    assert not list((tmp_path / "out").glob("*.bin"))
    (source,) = json.loads((tmp_path / "out" / "dusk.json").read_text())["inputs"]
    assert len(source["files"]) == files


def test_pickles_are_refused_unless_asked_for(model_folder: Models, tmp_path: Path) -> None:
    folder = pickled(model_folder("llama"), tmp_path / "pickled")
    with pytest.raises(CheckpointError, match="which can run any code") as caught:
        scale(folder, tmp_path / "out")
    assert "--allow-pickle" in str(caught.value)
    shutil.copy(model_folder("llama") / "model.safetensors", folder)
    (folder / "pytorch_model.bin").write_bytes(b"never opened beside safetensors")
    assert open_checkpoint(folder, allow_pickle=True).parameters


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(3), "b": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"could run any code: .*system"):
        read_pickle(tmp_path / "pytorch_model.bin")
    assert not (tmp_path / "harmed").exists()


def broken(file: Path, kind: str) -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4)}
    if kind == "cut short":
        torch.save(weights, file)
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "transposed":
        torch.save({**weights, "a": weights["a"].T}, file)
    elif kind == "old":
        torch.save(weights, file, _use_new_zipfile_serialization=False)
    elif kind == "nested":
        torch.save({"state_dict": weights}, file)
    elif kind == "plain pickle":
        file.write_bytes(pickle.dumps({"a": 1}))
    else:
        file.write_bytes(os.urandom(200))


@pytest.mark.parametrize("kind", ["cut short", "transposed", "old", "nested", "plain pickle", "noise"])
def test_what_is_no_plain_pickle_of_tensors_is_refused(tmp_path: Path, kind: str) -> None:
    broken(tmp_path / "x.bin", kind)
    with pytest.raises(CheckpointError) as caught:
        read_pickle(tmp_path / "x.bin")
    assert "x.bin" in str(caught.value)
    assert "save_pretrained" in str(caught.value)
    if kind == "transposed":
        assert caught.value.problems == ["a is a transposed or strided view"]


def test_views_of_one_storage_lie_where_they_begin(tmp_path: Path) -> None:
    whole = torch.arange(24, dtype=torch.int16).view(6, 4)
    state = {
        "all": whole,
        "rows": whole[2:4],
        "other": torch.ones(5, dtype=torch.bool),
        "none": torch.zeros(0),
    }
    torch.save(state, tmp_path / "x.bin")
    header = read_pickle(tmp_path / "x.bin")
    content = (tmp_path / "x.bin").read_bytes()
    for name, entry in header.tensors.items():
        assert content[entry.begin : entry.end] == state[name].numpy().tobytes()
        assert entry.shape == tuple(state[name].shape)
