"""What the tests of several ranks do in their two processes; started once a session by torchrun.

    torchrun --nproc-per-node 2 tests/two_ranks.py FOLDER

FOLDER holds the model and the data; outputs go into FOLDER/two, and what was seen of the shards into shards.json.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

PRETRAIN: dict[str, Any] = {
    "batch_tokens": 256,
    "micro_batch_tokens": 128,
    "learning_rate": 1e-3,
    "threads": 1,
    "eval_every_tokens": 600,
}
UNEVEN: dict[str, Any] = {**PRETRAIN, "batch_tokens": 384}
SFT: dict[str, Any] = {"batch_tokens": 200, "micro_batch_tokens": 100, "learning_rate": 1e-3, "threads": 1}
ALIGN: dict[str, Any] = {**SFT, "order": "easy-to-hard"}
MUON: dict[str, Any] = {**PRETRAIN, "optimizer": "muon"}
ADAPTERS: dict[str, Any] = {**SFT, "lora_rank": 4, "keep_adapter": True}
LIGHT: dict[str, Any] = {**PRETRAIN, "optimizer": "adamw-bf16"}
STOP_IN = 3  # the step that tells its progress; the next one ends with a checkpoint


class Stop:
    """Progress that has this process asked to stop, as a scheduler does, after so many steps."""

    def __init__(self, sign: signal.Signals) -> None:
        self.sign, self.left = sign, STOP_IN

    def __call__(self, done: int, total: int, unit: str, /, **values: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.sign)


def shards(model: torch.nn.Module) -> dict[str, Any]:
    return {
        name: {
            "sharded": isinstance(parameter.data, DTensor),
            "here": parameter.to_local().numel() if isinstance(parameter.data, DTensor) else 0,
            "whole": parameter.numel(),
        }
        for name, parameter in model.named_parameters()
    }


def main(folder: Path) -> None:
    from dusk.errors import StoppedError
    from dusk.train import pretrain as module
    from dusk.train.align import align
    from dusk.train.pretrain import pretrain
    from dusk.train.sft import sft

    fit, seen = module.fit, {}

    def watched(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.update(shards(model))
        return fit(model, *args, **kwargs)

    two, base, text = folder / "two", folder / "base", folder / "text.jsonl"
    module.fit = watched
    pretrain(base, two / "pretrain", data=text, eval_data=folder / "heldout.jsonl", **PRETRAIN)
    (folder / f"shards-{dist.get_rank()}.json").write_text(json.dumps(seen))
    module.fit = fit
    pretrain(base, two / "uneven", data=text, **UNEVEN)
    sft(base, two / "sft", data=folder / "chat.jsonl", token_cache=str(folder / "tokens"), **SFT)
    pairs = [folder / "one.jsonl", folder / "two.jsonl"]
    align(folder / "tied", two / "align", steps=pairs, **ALIGN)
    pretrain(base, two / "muon", data=text, **MUON)
    sft(base, two / "adapters", data=folder / "chat.jsonl", **ADAPTERS)
    pretrain(base, two / "light", data=text, **LIGHT)
    for name in ("light-begun", "light-begun-by-two"):
        with contextlib.suppress(StoppedError):
            pretrain(base, two / name, data=text, progress=Stop(signal.SIGUSR1), **LIGHT)
            raise AssertionError("it was not stopped")
    pretrain(base, two / "light-begun", data=text, **LIGHT)
    pretrain(base, folder / "begun-alone", data=text, **PRETRAIN)  # goes on from there
    with contextlib.suppress(StoppedError):
        pretrain(base, folder / "begun-by-two", data=text, progress=Stop(signal.SIGUSR1), **PRETRAIN)
        raise AssertionError("it was not stopped")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
