"""What the ways of training start from: texts of real lengths, a tokenizer of words, a model of 8M parameters."""

import json
import random
from pathlib import Path
from typing import Any

from bench.lengths import CHATS, DOCUMENTS, PAIRS

CONTEXT, VOCABULARY = 1024, 4096
_END = "<end>"
_PAIRS = 24  # of one optimizer step


def prepare(work: Path) -> None:
    """text.jsonl, chats.jsonl and pairs.jsonl; the same with the prompt rendered, as TRL takes them; model/."""
    from dusk.data.templates import SOLAR

    chance = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{chance.randrange(VOCABULARY - 8)}" for _ in range(count))

    chats = [{"prompt": words(asked), "completion": words(told)} for asked, told in CHATS]
    pairs = [{"prompt": words(p), "chosen": words(c), "rejected": words(r)} for p, c, r in PAIRS[:_PAIRS]]
    _write(work / "text.jsonl", [{"text": words(min(length, CONTEXT - 2))} for length in DOCUMENTS])
    for name, rows in (("chats", chats), ("pairs", pairs)):
        _write(work / f"{name}.jsonl", rows)
        rendered = [
            {**row, "prompt": SOLAR.prompt([{"role": "user", "content": row["prompt"]}])} for row in rows
        ]
        _write(work / f"{name}-rendered.jsonl", rendered)
    save_tokenizer(work / "model", VOCABULARY, CONTEXT)
    save_model(work / "model")


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def save_tokenizer(folder: Path, words: int, context: int) -> None:
    """A word is a token, so that texts have the lengths that they are to have; `w0` to `w{words - 9}`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, _END: 1, "<pad>": 2}
    vocabulary |= {f"w{i}": 3 + i for i in range(words - 8)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=_END, unk_token="<unk>", pad_token="<pad>", model_max_length=context
    )
    made.save_pretrained(folder)


def save_model(folder: Path, **other: Any) -> None:
    """A Llama of 8M parameters, in float32; `other` sizes in place of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
        **other,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
