"""One way of scoring a task's requests, a child of its own: `python -m bench.evaluation_ways WAY WORK [DATA]`.

WAY is `prepare` (the model of all ways, the requests of the tasks on local rows, and how many tokens they are),
`dusk`, or `hf` with its batch size (`hf-1`, `hf-8`). Timed is what turns requests into log-likelihoods, encoding
included; loading is not.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance

import dusk
from dusk.evaluate import harness, model
from dusk.evaluate.prefix_tree import Scored, count_tokens, prefix_tree
from dusk.evaluate.suites import Entry

CONTEXT = 4096
TIMED = ("mmlu", "arc")
CONFIG = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6}
TRAIN = {"fewshot_split": "train"}
TASKS: dict[str, tuple[list[Entry], int]] = {
    "mmlu": ([Entry(f"mmlu_{name}", num_fewshot=5) for name in ("anatomy", "virology", "sociology")], 24),
    "arc": ([Entry("arc_challenge", num_fewshot=25, settings=TRAIN)], 10),
    "hellaswag": ([Entry("hellaswag", num_fewshot=5, settings=TRAIN)], 24),
    "winogrande": ([Entry("winogrande", num_fewshot=5, settings=TRAIN)], 60),
    "truthfulqa": ([Entry("truthfulqa_mc2", num_fewshot=0)], 40),
}


def prepare(work: Path, data: Path) -> None:
    """A random Llama of a few million parameters with the shipped base's tokenizer; requests and token counts."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(Path(dusk.__file__).parent / "base" / "constant")
    tokenizer.model_max_length = CONTEXT
    torch.manual_seed(0)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, **CONFIG, **special)
    LlamaForCausalLM(config).save_pretrained(work / "scored")
    tokenizer.save_pretrained(work / "scored")
    loaded = load(work)
    asked = {task: requests(task, data) for task in TASKS}
    (work / "requests.json").write_text(json.dumps(asked))
    (work / "tokens.json").write_text(
        json.dumps({task: count(pairs, loaded) for task, pairs in asked.items()})
    )


def requests(task: str, data: Path) -> list[tuple[str, str]]:
    """The harness's requests on local rows: the first documents of each entry."""
    entries, limit = TASKS[task]
    found: list[tuple[str, str]] = []
    for entry in entries:
        loaded = harness.load_tasks(entry, None, 1234, harness.LocalDatasets([data]))
        with harness.quiet(offline=True):
            for each in loaded.tasks.values():
                each.build_all_requests(limit=limit)
                found += [instance.args for instance in each.instances]
    return found


def load(work: Path) -> Any:
    """The model as dusk evaluates it."""
    with harness.quiet(offline=True):
        return model.load_model(work / "scored", device="cpu", dtype="auto", batch_size=None)


def score(way: str, asked: list[tuple[str, str]], loaded: Any) -> dict[str, Any]:
    """The log-likelihoods, and how long they took by the clock and the processor."""
    if way != "dusk":
        size = int(way.removeprefix("hf-"))
        with harness.quiet(offline=True):
            loaded = model.HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=size)
    instances = [Instance("loglikelihood", {}, tuple(pair), number) for number, pair in enumerate(asked)]
    with harness.quiet(offline=True):
        begin = time.perf_counter(), time.process_time()
        answers = loaded.loglikelihood(instances, disable_tqdm=True)
        end = time.perf_counter(), time.process_time()
    logs = [log for log, _ in answers]
    return {"seconds": end[0] - begin[0], "processor_seconds": end[1] - begin[1], "logs": logs}


def count(asked: list[tuple[str, str]], loaded: Any) -> dict[str, int]:
    """Tokens through the model: with hf, which asks once for choices of one token, and in the tree."""
    pairs = [loaded._encode_pair(*pair) for pair in asked]
    scored = [Scored((context + continuation)[:-1], continuation) for context, continuation in pairs]
    grouped = {tuple(each.inputs) for each in scored}
    return {"hf": sum(map(len, grouped)), "dusk": count_tokens(prefix_tree(scored))}


def main(way: str, work: Path, data: Path | None) -> None:
    """Write the figures of a way to WORK."""
    torch.set_num_threads(1)
    if way == "prepare":
        assert data is not None
        prepare(work, data)
        return
    loaded = load(work)
    asked = json.loads((work / "requests.json").read_text())
    told = {task: score(way, asked[task], loaded) for task in TIMED}
    (work / f"{way}.scored.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
