"""Solar Pro at its full size on one GPU: `python -m bench --only solar-pro-22b`.

Random weights of the published config in bfloat16; tokens a second and the largest memory. vLLM, where it is
installed, generates from the same config with dummy weights.
"""

import importlib.util
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from bench.measure import PYTHON, measured
from bench.table import Table, Way, at_most

NAME = "solar-pro-22b"
_TOKENS, _PROMPT = 128, 512
_CONFIG: dict[str, Any] = {
    "architectures": ["SolarForCausalLM"],
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
    "bos_token_id": 1,
    "eos_token_id": 32007,
    "torch_dtype": "bfloat16",
    "bskcn_1": [12, 20, 32, 44],
    "bskcn_2": [20, 32],
    "bskcn_3": [16, 24, 36, 48],
    "bskcn_4": [28, 40],
    "bskcn_tv": [0.9, 0.8],
}


def bench(work: Path, rounds: int) -> list[Table]:
    """A child a way; without a GPU nothing is measured, and the table says so."""
    import torch

    ways, peak = [], None
    for name, package in {"dusk": "transformers", "vllm": "vllm"}.items():
        command = [PYTHON, "-m", "bench.solar_pro_full", name, str(work), str(rounds)]
        missing = "" if torch.cuda.is_available() else "no CUDA device"
        missing = missing or ("" if importlib.util.find_spec(package) else f"{package} is not installed")
        if missing:
            ways.append(Way(name, shlex.join(command), missing=missing))
            continue
        measured(command, work / "log")
        told = json.loads((work / f"{name}.json").read_text())
        peak = told["peak_bytes"] if name == "dusk" else peak
        ways.append(Way(name, shlex.join(command), tuple(told["tokens_per_second"]), told["peak_bytes"]))
    goal = at_most("peak GPU memory in GB, at most 80", None if peak is None else peak / 1e9, 80)
    note = f"22,140,032,000 random parameters, bf16, {_TOKENS} tokens greedily after {_PROMPT}, one row."
    return [Table("Solar Pro at full size", "tokens/s", "dusk", tuple(ways), goals=(goal,), notes=(note,))]


def generate(work: Path, rounds: int) -> None:
    """transformers with our model; the memory is that of its tensors at their most."""
    import torch

    from dusk.solar_pro import SolarConfig, SolarForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda"):
        model = SolarForCausalLM._from_config(SolarConfig.from_dict(_CONFIG), dtype=torch.bfloat16).eval()
    prompt = torch.randint(2, 32000, (1, _PROMPT), device="cuda")
    speeds = []
    for number in range(rounds + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(
            prompt, max_new_tokens=_TOKENS, min_new_tokens=_TOKENS, do_sample=False, pad_token_id=0
        )
        torch.cuda.synchronize()
        if number:
            speeds.append(_TOKENS / (time.perf_counter() - begin))
    told = {"tokens_per_second": speeds, "peak_bytes": torch.cuda.max_memory_allocated()}
    (work / "dusk.json").write_text(json.dumps(told))


def generate_by_vllm(work: Path, rounds: int) -> None:
    """vLLM's own SolarForCausalLM with dummy weights; its memory is what it was allowed to take."""
    import torch
    from vllm import LLM, SamplingParams

    folder = work / "config"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    llm = LLM(str(folder), load_format="dummy", skip_tokenizer_init=True, gpu_memory_utilization=0.5)
    settings = SamplingParams(temperature=0, max_tokens=_TOKENS, ignore_eos=True, detokenize=False)
    prompt = {"prompt_token_ids": [7] * _PROMPT}
    speeds = []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        llm.generate([prompt], settings, use_tqdm=False)
        if number:
            speeds.append(_TOKENS / (time.perf_counter() - begin))
    free, total = torch.cuda.mem_get_info()
    (work / "vllm.json").write_text(json.dumps({"tokens_per_second": speeds, "peak_bytes": total - free}))


if __name__ == "__main__":
    run = {"dusk": generate, "vllm": generate_by_vllm}[sys.argv[1]]
    run(Path(sys.argv[2]), int(sys.argv[3]))
