"""Tiny models of the real architectures, made by transformers once a session.

A fixture's folder belongs to all tests of the session: copy it (`copy_of`) before changing it.
"""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of a property
hypothesis.settings.load_profile("untimed")

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_hidden_layers": 8},
    "mistral": {"model_type": "mistral", "num_hidden_layers": 4, "sliding_window": 8},
    "qwen2": {"model_type": "qwen2", "num_hidden_layers": 4, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "num_hidden_layers": 4, "head_dim": 8, "pad_token_id": 0},
}


def save_random_model(
    folder: Path, *, seed: int = 0, dtype: str = "float32", shard: str = "5GB", **config: Any
):
    """A randomly initialised causal language model, saved as transformers saves it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = AutoConfig.for_model(**{**SIZES, **config})
    model = AutoModelForCausalLM.from_config(settings).to(getattr(torch, dtype))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms start at 1: make a mix-up of them visible
                parameter.copy_(torch.rand_like(parameter) * 0.5 + (0.75 if "norm" in name else 0))
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`model_folder("llama")`: the folder of a tiny random model; each variant is made once a session.

    Keywords override the variant: dtype, seed, shard (`"20KB"`), any field of the config.
    """
    made: dict[tuple[str, str], Path] = {}

    def make(variant: str = "llama", **overrides: Any) -> Path:
        key = (variant, repr(sorted(overrides.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(variant)
            made[key] = save_random_model(folder, **{**VARIANTS[variant], **overrides})
        return made[key]

    return make


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """`copy_of(folder)`: a copy that the test may change."""

    def copy(folder: Path, name: str = "copy") -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    return copy


@pytest.fixture
def file_size_limit() -> Callable[[int], Any]:
    """`with file_size_limit(bytes):` the system refuses to let any file grow beyond; a disk that is full."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limit(size_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("64k")`: a file system of its own with so much room; for those who may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("no right to mount a file system")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def no_network() -> Iterator[None]:
    """Any connection that is tried fails the test."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield
