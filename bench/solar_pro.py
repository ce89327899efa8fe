"""Generation by Solar Pro beside a plain Llama of the same weights: do the skips cost anything?

`python -m bench.solar_pro FILE ROUNDS` is the child: both models in one process, in turn, round by round.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench.measure import PYTHON, measured
from bench.table import Table, Way, at_most, paired_ratio

NAME = "solar-pro"
_LAYERS, _TOKENS, _PROMPT = 64, 24, 64
_SIZES = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 896,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": _LAYERS,
    "max_position_embeddings": 512,
    "eos_token_id": None,
}
_NOTES = (
    f"{_LAYERS} layers of width 256 with the published skips (six blends a pass) and without, the same random "
    f"weights in one place, float32, one thread; {_TOKENS} tokens greedily after {_PROMPT}, with the cache.",
    "Processor time leaves out what others took of the machine.",
)


def bench(work: Path, rounds: int) -> list[Table]:
    """One child for all rounds: what is compared is milliseconds a token, not start-up."""
    result = work / "solar-pro.json"
    command = [PYTHON, "-m", "bench.solar_pro", str(result), str(rounds)]
    measured(command, work / "log")
    told = json.loads(result.read_text())
    return [
        _table(title, {name: told[name][clock] for name in told}, shlex.join(command))
        for clock, title in {"seconds": "by the clock", "processor_seconds": "by processor time"}.items()
    ]


def _table(title: str, seconds: Mapping[str, list[float]], command: str) -> Table:
    ways = tuple(
        Way(name, command, tuple(1000 * value / _TOKENS for value in values))
        for name, values in seconds.items()
    )
    ratio = paired_ratio(seconds["solar-pro"], seconds["llama"])
    goal = at_most("milliseconds a token over those of Llama, at most 1.02", ratio, 1.02)
    return Table(f"Generation with skips, {title}", "ms a token", "llama", ways, goals=(goal,), notes=_NOTES)


def measure(result: Path, rounds: int) -> None:
    """Both models in turn, each first in every other round; the first pair warms up."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from dusk.solar_pro import SolarConfig, SolarForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    solar = SolarForCausalLM(SolarConfig(**_SIZES, sliding_window=None)).eval()
    llama = LlamaForCausalLM(LlamaConfig(**_SIZES)).eval()
    llama.load_state_dict(solar.state_dict(), assign=True)  # the very same memory: where it lies counts, too
    models = {"llama": llama, "solar-pro": solar}
    prompt = torch.randint(2, 1024, (1, _PROMPT))
    told: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "processor_seconds": []} for name in models
    }
    for number in range(rounds + 1):
        for name in sorted(models, reverse=bool(number % 2)):
            clock, processor = time.perf_counter(), time.process_time()
            models[name].generate(
                prompt, max_new_tokens=_TOKENS, min_new_tokens=_TOKENS, do_sample=False, pad_token_id=0
            )
            if number:
                told[name]["seconds"].append(time.perf_counter() - clock)
                told[name]["processor_seconds"].append(time.process_time() - processor)
    result.write_text(json.dumps(told))


if __name__ == "__main__":
    measure(Path(sys.argv[1]), int(sys.argv[2]))
