"""Verification: what is whole passes, and every fault is told, several at once."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import save_random_model
from dusk.checkpoint import verify
from dusk.errors import CheckpointError
from dusk.scale import scale

Models = Callable[..., Path]
Copy = Callable[..., Path]


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("variant", ["llama", "mistral", "qwen2", "qwen3"])
def test_whole_models_pass(model_folder: Models, tmp_path: Path, variant: str) -> None:
    scale(model_folder(variant, dtype="bfloat16"), tmp_path / "out")
    for folder in (model_folder(variant, dtype="bfloat16"), tmp_path / "out"):
        report = verify(folder, forward=True)
        assert report.ok, report
        assert report.warnings == ()
        assert report.cache_difference is not None
        assert report.cache_difference < 1e-5
        assert "names and shapes" in report.checked


def test_all_misfits_are_told_at_once(model_folder: Models, copy_of: Copy) -> None:
    folder = copy_of(model_folder("mistral"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"], weights["lm_head.weight"]
    weights["model.layers.2.self_attn.q_proj.weight"] = torch.zeros(3, 32)
    weights["model.layers.3.extra.weight"] = torch.zeros(2)
    save_file(weights, folder / "model.safetensors")
    report = verify(folder, forward=True)
    assert set(report.problems) == {
        "model.layers.1.mlp.up_proj.weight (48, 32) is missing",
        "lm_head.weight (96, 32) is missing",
        "model.layers.2.self_attn.q_proj.weight has shape (3, 32), the config asks for (32, 32)",
        "model.layers.3.extra.weight has no place in the model",
    }
    assert report.cache_difference is None
    with pytest.raises(CheckpointError, match="not a whole model"):
        report.require()


def test_broken_files_are_in_the_report(model_folder: Models, copy_of: Copy) -> None:
    folder = copy_of(model_folder("llama"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    report = verify(folder)
    assert not report.ok
    assert "cut short" in report.problems[0]
    assert json.loads(json.dumps(report.to_json()))["ok"] is False
    with pytest.raises(CheckpointError, match="There is no folder"):
        verify(folder / "nothing")


def test_lists_that_do_not_fit_the_layers(model_folder: Models, copy_of: Copy) -> None:
    folder = copy_of(model_folder("qwen3"))
    edit(folder, layer_types=["full_attention"] * 3)
    assert verify(folder).problems == ("the config's layer_types has 3 entries for 4 layers",)
    edit(folder, layer_types=["full_attention"] * 4, hidden_size="32")
    assert "hidden_size is '32'" in verify(folder).problems[0]


def test_a_manifest_of_another_depth(model_folder: Models, tmp_path: Path) -> None:
    scale(model_folder("llama"), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "dusk.json").read_text())
    manifest["layer_map"]["layers"] = 13
    (tmp_path / "out" / "dusk.json").write_text(json.dumps(manifest))
    assert verify(tmp_path / "out").problems == ("dusk.json says 13 layers, the model has 12",)


def test_a_head_stored_twice_is_odd_but_works(model_folder: Models, copy_of: Copy) -> None:
    folder = copy_of(model_folder("qwen2"))
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    report = verify(folder)
    assert report.ok
    assert "ties it" in report.warnings[0]


def test_other_architectures_are_checked_by_loading(tmp_path: Path) -> None:
    folder = save_random_model(tmp_path / "m", model_type="gpt_neox", num_hidden_layers=2)
    report = verify(folder, forward=True)
    assert report.ok, report
    assert "forward pass only" in report.warnings[0]
    weights = load_file(folder / "model.safetensors")
    del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert verify(folder).ok
    assert verify(folder, forward=True).problems == (
        "missing keys: gpt_neox.layers.1.mlp.dense_h_to_4h.weight",
    )


def test_with_digests_any_flipped_bit_is_found(model_folder: Models, tmp_path: Path) -> None:
    """In the header's padding, in the first and last byte of the data, and at random places between."""
    import random

    scale(model_folder("llama", dtype="bfloat16"), tmp_path / "out")
    folder, file = tmp_path / "out", tmp_path / "out" / "model.safetensors"
    assert "digests written" in verify(folder, write=True).checked
    report = verify(folder)
    assert report.ok, report
    assert "digests" in report.checked
    whole = file.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(0)
    places = [8, header_end - 1, header_end, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(40))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        assert not verify(folder).ok, place
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert len(verify(folder).problems) == 1
    file.write_bytes(whole)
    manifest = (folder / "dusk.json").read_bytes()
    places = [manifest.index(b'"digests"') + 3, *(draw.randrange(len(manifest)) for _ in range(60))]
    for place in places:
        damaged = bytearray(manifest)
        damaged[place] ^= 1 << draw.randrange(8)
        (folder / "dusk.json").write_bytes(damaged)
        assert not verify(folder).ok, place
    (folder / "dusk.json").write_bytes(manifest)
    edit(folder, rope_theta=1.0)
    assert verify(folder).problems == ("config.json is not what it was when its digest was written",)
    assert verify(folder, write=True).ok
    assert verify(folder).ok
    (folder / "generation_config.json").unlink()
    assert verify(folder).problems == ("generation_config.json is gone",)


def test_bytes_that_the_disk_does_not_give_are_a_problem(
    model_folder: Models, copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(model_folder("llama"))
    verify(folder, write=True).require()

    def failing(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    assert verify(folder).problems == (f"{folder / 'model.safetensors'} cannot be read: Input/output error.",)


@pytest.mark.parametrize("key", ["layer_map", "settings", "inputs", "lineage", "digests", "results"])
@pytest.mark.parametrize("value", [[1], "x", 7, {"layers": "8"}, True])
def test_a_manifest_of_other_types_is_told(model_folder: Models, copy_of: Copy, key: str, value: Any) -> None:
    """Not a crash, whatever stands there; what is no layer map or no list of inputs is a problem."""
    folder = copy_of(model_folder("llama"))
    verify(folder, write=True).require()
    manifest = json.loads((folder / "dusk.json").read_text()) | {key: value}
    (folder / "dusk.json").write_text(json.dumps(manifest))
    assert not verify(folder).ok


def test_a_tensor_of_another_shape_is_told_by_loading(tmp_path: Path) -> None:
    """Also in a layer, which is left on the disk."""
    folder = save_random_model(tmp_path / "m", model_type="gpt_neox", num_hidden_layers=2)
    weights = load_file(folder / "model.safetensors")
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    weights[name] = torch.zeros(3, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert verify(folder).ok
    report = verify(folder, forward=True)
    assert not report.ok
    assert report.problems == (f"{name} has shape (3, 32), the model asks for (48, 32)",)


PEAK = """
import gc, sys, threading, time
from pathlib import Path
import torch, transformers
from transformers import AutoModelForCausalLM
from dusk.checkpoint import verify
from dusk.checkpoint.forward import forward_check

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

if sys.argv[1] == "whole":
    def work():
        model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32)
        return model(torch.ones(1, 12, dtype=torch.long))
else:
    def work():
        verify(sys.argv[2], forward=True).require()
    forward_check(Path(sys.argv[3]))  # what the first model of a process costs besides
gc.collect()
before = peak = anonymous()
done = False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
kept = work()
done = True
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measured as Linux tells it")
def test_a_forward_check_holds_a_few_layers(model_folder: Models, tmp_path: Path) -> None:
    """24 layers of 14.7 MB in float32: the check holds fewer than four of them and the embeddings."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24, "vocab_size": 1000}
    model = str(save_random_model(tmp_path / "m", model_type="llama", dtype="bfloat16", **sizes))
    layer = 4 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 2048 + 2 * 512)
    outside = 4 * (2 * 1000 * 512 + 512)

    def peak(way: str) -> int:
        command = [sys.executable, "-c", PEAK, way, model, str(model_folder("llama"))]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak("whole") > 24 * layer
    peak("layer by layer")  # a machine's first run compiles modules as it imports them: a peak of its own
    assert peak("layer by layer") < 4 * layer + outside
