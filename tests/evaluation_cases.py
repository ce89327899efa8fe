"""A small world for the tests of evaluation: rows, a suite, two random models, and their scores by hand."""

import json

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from dusk.evaluate.suites import FOLDER

torch.set_num_threads(1)

SUBJECTS = ("array", "graph", "matrix", "tensor", "series", "window")
VERBS = ("holds", "returns", "sorts", "copies", "joins")
OBJECTS = ("values", "edges", "rows", "keys", "labels", "numbers", "nodes")
NUMBERS = [str(number) for number in range(60)]


def _sentence(index):
    return (
        f"The {SUBJECTS[index % 6]} {VERBS[index % 5]} {OBJECTS[index % 7]} and {OBJECTS[(index // 7) % 7]}."
    )


def documents():
    for source in ("numpy", "scipy"):
        for page in range(6):
            sentences = [_sentence(page * 11 + line) for line in range(5)]
            text = " ".join(dict.fromkeys(sentences))
            yield {
                "text": f"{text}\n\n{text}",
                "source": source,
                "module": f"{source}.m",
                "name": f"{source}.m.f{page}",
            }


def problems():
    for level in (1, 2):
        for index in range(4):
            total = 3 * level + index
            yield {
                "question": f"The array holds {index} values and {3 * level} rows.",
                "answer": f"{index} + {3 * level} = {total}\n#### {total}",
                "level": level,
            }


def write_data(folder):
    for name, rows in (("heldout", documents()), ("arithmetic", problems())):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_suite(folder, *, max_gen_toks=8):
    """The demo's suite with short answers."""
    path = folder / "small.yaml"
    content = yaml.safe_load((FOLDER / "demo.yaml").read_text())
    content["suite"] = "small"
    for entry in content["tasks"]:
        if entry["local"] == "arithmetic":
            entry["settings"] = {"generation_kwargs": {"until": ["Question:"], "max_gen_toks": max_gen_toks}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_models(folder):
    """Two models of a context of 160 tokens; the second one's tokenizer puts BOS in front."""
    found = []
    for seed in (0, 1):
        tokenizer = _tokenizer(bos=seed == 1)
        path = folder / f"model{seed}"
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=160,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
        LlamaForCausalLM(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        found.append(path)
    return found


def _tokenizer(*, bos):
    texts = [row["text"] for row in documents()] + [f"{p['question']} {p['answer']}" for p in problems()]
    split = pre_tokenizers.Whitespace()
    words = {word for text in texts for word, _ in split.pre_tokenize_str(f"{text} Question: Answer:")}
    vocabulary = {
        word: number for number, word in enumerate(["<eos>", "<unk>", "<s>", *sorted(words | set(NUMBERS))])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    special = {"eos_token": "<eos>", "pad_token": "<eos>", "unk_token": "<unk>"}
    special |= {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=160, **special)


class ByHand:
    """Log-likelihoods of one sequence at a time, straight from transformers."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def context(self, text):
        return self.tokenizer(text)["input_ids"]

    @torch.no_grad()
    def nats(self, context, continuation):
        logs = self.model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
        at = range(len(context) - 1, len(context) + len(continuation) - 1)
        return sum(logs[place, token].item() for place, token in zip(at, continuation, strict=True))
