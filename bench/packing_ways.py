"""One way of making batches of a set of instructions: `python -m bench.packing_ways WAY FOLDER [--count N]`.

WAY is `prepare` (rows, a tokenizer of theirs, a tiny model), `dusk`, `dusk-cache`, or `trl-FORM-PROCESSES`: FORM
is `chat` for messages that the tokenizer's template renders, `text` for prompts that are rendered already.
"""

import argparse
import json
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

CONTEXT = 2048
_VOCABULARY = 16_000
_LONGEST = 3000  # characters of a row, so that all fit the context


def main(arguments: list[str]) -> None:
    """Do one way and write WAY.result.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way")
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.way == "prepare":
        prepare(given.work, given.count)
        return
    name, *options = given.way.split("-")
    told = by_trl(given.work, *options) if name == "trl" else by_dusk(given.work, cached=bool(options))
    (given.work / f"{given.way}.result.json").write_text(json.dumps(told))


def prepare(work: Path, count: int) -> None:
    """The same rows as questions and answers, as messages and as rendered prompts; tokenizer and tiny model."""
    from bench.data_rows import write_rows
    from bench.training_data import save_model
    from dusk.data.templates import SOLAR
    from dusk.data.tokenizer import save_tokenizer, train_tokenizer

    write_rows(work / "all.jsonl", count * 3 // 2)
    with (work / "all.jsonl").open(encoding="utf-8") as lines:
        rows = [(row["prompt"].strip(), row["completion"].strip()) for row in map(json.loads, lines)]
    rows = [row for row in rows if all(row) and sum(map(len, row)) <= _LONGEST][:count]
    rendered = [(SOLAR.prompt([_said("user", asked)]), told) for asked, told in rows]
    messages = [([_said("user", asked)], [_said("assistant", told)]) for asked, told in rows]
    for name, some in (("plain", rows), ("chat", messages), ("text", rendered)):
        with (work / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in some)
    tokenizer = train_tokenizer((text for row in rows[:5000] for text in row), _VOCABULARY)
    save_model(work / "model", vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=1)
    save_tokenizer(tokenizer, work / "model", context=CONTEXT)
    _say_eos(work / "model", SOLAR.jinja)


def by_dusk(work: Path, *, cached: bool) -> dict[str, Any]:
    """From the file to the plan of all batches; in memory, or by files that other runs and ranks can use."""
    from tokenizers import Tokenizer

    from dusk.data.encode import TextTokenizer
    from dusk.data.packing import plan_batches
    from dusk.data.stores import Chats, TokenCache, build
    from dusk.data.templates import SOLAR
    from dusk.data.tokenizer import EOS

    inner = Tokenizer.from_file(str(work / "model" / "tokenizer.json"))
    reading = Chats(TextTokenizer(inner, eos=inner.token_to_id(EOS)), CONTEXT, SOLAR)
    shutil.rmtree(work / "cache-dusk", ignore_errors=True)
    (work / "cache-dusk").mkdir()
    began = _clocks()
    if cached:
        cache = TokenCache(work / "cache-dusk")
        store, counts = cache.opened(cache.made([work / "plain.jsonl"], reading))
    else:
        store, counts = build([work / "plain.jsonl"], reading)
    plan = plan_batches(store, capacity=CONTEXT, seed=0)
    spent = _since(began)
    assert not counts.left_out, counts.left_out
    ends = store.offsets.tolist()
    documents = (
        (store.tokens[begin:end].tolist(), store.trained[begin:end].tolist()) for begin, end in pairwise(ends)
    )
    return spent | _told(documents, len(plan))


def by_trl(work: Path, form: str, processes: str) -> dict[str, Any]:
    """SFTTrainer's own preparation, from the file to its packed rows, which `datasets` keeps in files."""
    warnings.filterwarnings("ignore")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    class Timed(SFTTrainer):
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            self.began = _clocks()
            made = super()._prepare_dataset(*args, **kwargs)
            self.spent = _since(self.began)
            return made

    cache = work / f"cache-{form}-{processes}"
    shutil.rmtree(cache, ignore_errors=True)
    began = _clocks()
    rows = Dataset.from_json(str(work / f"{form}.jsonl"), cache_dir=str(cache))
    reading = _since(began)
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(work / "model"),
        args=SFTConfig(
            output_dir=str(work / "trl"),
            max_length=CONTEXT,
            packing=True,
            packing_strategy="bfd",
            completion_only_loss=True,
            dataset_num_proc=int(processes) if int(processes) > 1 else None,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(work / "model"),
    )
    packed = trainer.train_dataset
    spent = {name: value + reading[name] for name, value in trainer.spent.items()}
    return spent | _told(_documents(packed), len(packed))


def _documents(packed: Any) -> Iterable[tuple[list[int], list[bool]]]:
    for row in packed:
        begin = 0
        for size in row["seq_lengths"]:
            span = slice(begin, begin + size)
            yield row["input_ids"][span], [label != -100 for label in row["labels"][span]]
            begin += size


def _told(documents: Iterable[tuple[list[int], list[bool]]], batches: int) -> dict[str, Any]:
    """Figures that do not depend on the order of the documents."""
    tokens = trained = total = count = 0
    for ids, mask in documents:
        count += 1
        tokens += len(ids)
        trained += sum(mask)
        content = json.dumps([list(ids), [int(one) for one in mask]]).encode()
        total += int.from_bytes(blake2b(content, digest_size=8).digest(), "little")
    return {
        "documents": count,
        "tokens": tokens,
        "trained": trained,
        "batches": batches,
        "digest": total % (1 << 64),
    }


def _clocks() -> tuple[float, float]:
    """Now, and the processor time of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)


def _since(began: tuple[float, float]) -> dict[str, float]:
    seconds, processor_seconds = (now - then for now, then in zip(_clocks(), began, strict=True))
    return {"seconds": seconds, "processor_seconds": processor_seconds}


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _say_eos(model: Path, jinja: str) -> None:
    """For TRL: the template that writes BOS, and EOS behind an answer, as training with dusk has them."""
    answer = "message['content']}}{% endif %}{% if loop.last"
    assert answer in jinja
    ended = jinja.replace(answer, answer.replace("']}}", "'] + eos_token}}"))
    (model / "chat_template.jinja").write_text("{{ bos_token }}" + ended)


if __name__ == "__main__":
    main(sys.argv[1:])
