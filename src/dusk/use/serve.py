"""Serving a model by an existing OpenAI-compatible server: vLLM where there is a GPU, else transformers' own."""

import importlib.util
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dusk.checkpoint import open_checkpoint, require_fit
from dusk.errors import CheckpointError, SettingError

Engine = Literal["vllm", "transformers"]


@dataclass(frozen=True)
class Service:
    """A server that can be started: `arguments` are those of the engine's own `serve` command.

    `name` is what requests call the model; any other name is refused. `chats` tells whether there is a chat
    template: without one the server answers completions alone.
    """

    engine: Engine
    arguments: tuple[str, ...]
    address: str
    name: str
    chats: bool

    def run(self) -> None:
        """Serve until stopped; vLLM takes this process's place.

        Raises:
            SettingError: the server's packages are not installed.
        """
        if self.engine == "vllm":
            os.execvp("vllm", ["vllm", "serve", *self.arguments])
        else:
            from dusk.solar_pro.serve import serve as run_transformers  # lazy: torch

            run_transformers(self.arguments)


def plan_service(
    model: str | Path,
    *,
    engine: Engine | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str | None = None,
    dtype: str = "auto",
    more: Sequence[str] = (),
) -> Service:
    """How `model` (a folder or hub id) is served; `more` goes to the engine as it is.

    Unless told, the engine is vLLM where it is installed and a GPU is there. `dtype` "auto" is float32 on a
    CPU and the checkpoint's own elsewhere.

    Raises:
        InputError: no model, an engine or device that is not here, or a port that is taken.
    """
    from dusk.checkpoint.device import choose_device  # lazy: torch

    checkpoint, name = open_checkpoint(model), str(model)
    require_fit(checkpoint)
    place = choose_device(device)
    chosen = engine or ("vllm" if place.startswith("cuda") and shutil.which("vllm") else "transformers")
    _require(chosen)
    if chosen == "vllm":
        _require_config_for_vllm(checkpoint.path, checkpoint.config, more)
    _require_free(host, port)
    wanted = "float32" if dtype == "auto" and place == "cpu" else dtype
    address = ("--host", host, "--port", str(port), "--dtype", wanted)
    if chosen == "vllm":
        arguments = (str(checkpoint.path), "--served-model-name", name, *address, *more)
    else:
        # the server splits names at the @ of a revision; hub ids come with theirs
        if "@" in name and Path(name).expanduser().is_dir():
            raise CheckpointError(f"{name}: transformers' server takes what follows @ for a revision.")
        arguments = (name, *address, "--device", place, *more)
    return Service(chosen, arguments, f"http://{host}:{port}/v1", name, _chats(checkpoint.path))


def _require(engine: Engine) -> None:
    if engine == "vllm" and not shutil.which("vllm"):
        raise SettingError(
            "vLLM is not installed here", remedy="`pip install vllm`, on a machine with a GPU."
        )
    if engine == "transformers" and not importlib.util.find_spec("uvicorn"):
        raise SettingError("the server's packages are not installed", remedy="Install `dusk[serve]`.")


def _require_config_for_vllm(folder: Path, config: Mapping[str, Any], more: Sequence[str]) -> None:
    """vLLM has Solar Pro's model, but takes configs from transformers, which has none of that type."""
    if config.get("model_type") != "solar":
        return
    if "auto_map" not in config:
        layers = config.get("num_hidden_layers", 1)
        raise CheckpointError(
            f"{folder}: vLLM finds no config class for model_type solar",
            remedy=f"`dusk scale {folder} OUT --layers 0-{layers - 1} --with-remote-code` writes it into a "
            "folder; or serve with --engine transformers.",
        )
    if "--trust-remote-code" not in more:
        raise SettingError(
            f"{folder}: vLLM reads this config by the code in the folder only if told to",
            remedy="Add `-- --trust-remote-code`; or serve with --engine transformers.",
        )


def _require_free(host: str, port: int) -> None:
    """A server notices a port that is taken after it has loaded the model."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise SettingError(
            f"nothing can listen at {host}:{port}: {error.strerror or error}",
            remedy="Give another --host or --port.",
        ) from error


def _chats(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    inside = settings.is_file() and '"chat_template"' in settings.read_text(encoding="utf-8")
    return inside or (folder / "chat_template.jinja").is_file()
