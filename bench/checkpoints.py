"""The checkpoints that the benches copy and merge, the plain copy beside them, and mergekit where it is."""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.measure import PYTHON, Run, measured
from bench.table import Way

MERGEKIT_VARIABLE = "DUSK_BENCH_MERGEKIT"
LARGE = {  # 1.1B-like layers, eight of them: 0.77 GB in bfloat16
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 8000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
MISTRAL = LARGE | {  # Mistral-7B's shape: 7.24B parameters
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "sliding_window": None,
}


def random_checkpoint(work: Path, name: str, seed: int, config: dict[str, object] | None = None) -> Path:
    """A random checkpoint in `work`, made by a child once."""
    out = work / name
    if not out.exists():
        file = work / f"{name}.json"
        file.write_text(json.dumps(config or LARGE))
        measured([PYTHON, "-m", "bench.random_model", str(file), str(out), str(seed)], work / "model.log")
    return out


def clear(out: Path) -> None:
    """Removes a file or folder, or nothing."""
    shutil.rmtree(out, ignore_errors=True)
    out.unlink(missing_ok=True)


def cleared(out: Path, command: Sequence[str], log: Path) -> Callable[[], Run]:
    """A run of `command` that finds no `out`."""

    def run() -> Run:
        clear(out)
        return measured(command, log)

    return run


def plain_copies(source: Path, target: Path) -> dict[str, list[str]]:
    """`cp` of a file or folder, and `cp` until the bytes are on the disk, as dusk's outputs are when it ends.

    cp copies by copy_file_range where it cannot share blocks; here it is told not to share.
    """
    copy = f"cp -r --reflink=never {source} {target}"
    return {
        "cp": ["cp", "-r", "--reflink=never", str(source), str(target)],
        "cp, on disk": ["sh", "-c", f"{copy} && {_synced(target)}"],
    }


def _synced(target: Path) -> str:
    return f"find {target} -type f -exec sync {{}} +"


def on_disk(command: Sequence[str], target: Path) -> list[str]:
    """The command, and then until the disk has what it wrote."""
    return ["sh", "-c", f"{shlex.join(command)} && {_synced(target)}"]


def mergekit_command(config: Path, out: Path) -> list[str] | None:
    """mergekit's command for a config; None where the variable names no folder with it."""
    folder = os.environ.get(MERGEKIT_VARIABLE)
    program = Path(folder) / "mergekit-yaml" if folder else None
    if program is None or not program.exists():
        return None
    return [str(program), str(config), str(out), "--no-copy-tokenizer"]


def mergekit_absent() -> Way:
    """The row that says so."""
    command = f"{MERGEKIT_VARIABLE}=<its bin folder> python -m bench"
    return Way("mergekit", command, missing="not in this environment; this command measures it")
