"""The commands, each with its line of help and an example; what they do is imported when one is called."""

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a command lies (`module:attribute`), what it does in one line, and an example."""

    where: str
    summary: str
    example: str


COMMANDS: dict[str, Entry] = {
    "scale": Entry(
        "dusk.cli.models:scale",
        "Depth up-scale a checkpoint.",
        "dusk scale mistralai/Mistral-7B-v0.1 ./deeper --drop 8",
    ),
    "inspect": Entry(
        "dusk.cli.models:inspect", "Show a model's layers, parameters and lists.", "dusk inspect ./deeper"
    ),
    "verify": Entry(
        "dusk.cli.models:verify", "Check that a model is whole and fits its config.", "dusk verify ./deeper"
    ),
    "scan": Entry(
        "dusk.cli.scan:scan",
        "Compare the layer maps of one depth, before anything is written.",
        "dusk scan mistralai/Mistral-7B-v0.1 ./scanned --to 48 --text heldout.jsonl",
    ),
    "pretrain": Entry(
        "dusk.cli.train:pretrain",
        "Continue the pretraining of a model, or start one.",
        "dusk pretrain ./deeper ./recovered --data text.jsonl --tokens 20M",
    ),
    "sft": Entry(
        "dusk.cli.train:sft",
        "Tune a model to follow instructions.",
        "dusk sft ./recovered ./tuned --data instructions.jsonl",
    ),
    "align": Entry(
        "dusk.cli.train:align",
        "Align a model by stepwise DPO; one --step alone is DPO.",
        "dusk align ./tuned ./aligned --step easy.jsonl --step hard.jsonl",
    ),
    "merge": Entry(
        "dusk.cli.models:merge",
        "Merge models into one.",
        "dusk merge ./a ./b --out ./merged --method slerp --t 0.5",
    ),
    "eval": Entry(
        "dusk.cli.evaluation:evaluate",
        "Score models on a suite of tasks.",
        "dusk eval ./base ./merged --suite h6 --out results.json",
    ),
    "judge": Entry(
        "dusk.cli.judge:judge",
        "Have a judge model grade answers over two turns.",
        "dusk judge ./tuned --questions q.jsonl --judge http://localhost:8000/v1",
    ),
    "contamination": Entry(
        "dusk.cli.contamination:contamination",
        "Ask whether benchmarks are in a model's training data.",
        "dusk contamination ./tuned --reference ./base --task gsm8k --data ./h6",
    ),
    "data": Entry(
        "dusk.cli.data:data", "Make training data.", "dusk data documentation ./docs --packages stdlib"
    ),
    "run": Entry(
        "dusk.cli.runs:run",
        "Run a whole recipe; the same command resumes it.",
        "dusk run recipe.yaml --out ./run",
    ),
    "budget": Entry(
        "dusk.cli.budget:command",
        "Say what a recipe costs before it is run.",
        "dusk budget recipe.yaml --gpus 8xH100",
    ),
    "report": Entry("dusk.cli.runs:report", "Write the report of a run.", "dusk report ./run"),
    "chat": Entry(
        "dusk.cli.chat:chat",
        "Talk to a model, or to a layer map that was never written.",
        "dusk chat ./base --layers 0-23,8-31",
    ),
    "serve": Entry(
        "dusk.cli.serve:serve", "Serve a model to OpenAI clients.", "dusk serve ./aligned --port 8000"
    ),
    "push": Entry(
        "dusk.cli.push:push",
        "Publish a model on the hub, private unless told.",
        "dusk push ./aligned me/solar-of-mine",
    ),
    "demo": Entry(
        "dusk.cli.runs:demo",
        "Run the whole chain on a small model, on this machine.",
        "dusk demo",
    ),
}
