"""What the tests of contamination detect: the shipped base tuned with and without test items of GSM8K.

    DUSK_TEST_DATA=DIR python -m bench.contamination OUT

Two models are trained alike on the training split. One has test items among its data, some once, some 4 times,
some 16 times; the other has rows of the training split in their place, as often. Both are tested on these items
and on items that neither has: against the base, and the contaminated one also against the clean one. Prints what
each test finds, and writes `contamination.json` and the ROC of each test, `contamination.svg`.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dusk
from bench.data_rows import data_folder
from bench.roc_figure import Panel, roc_figure
from bench.table import aligned
from dusk.checkpoint import read_manifest
from dusk.data.benchmarks import read_benchmark
from dusk.evaluate.contamination import TaskResult, area_interval, area_under, contamination, roc

BASE = Path(dusk.__file__).parent / "base/constant"
SEEN = (1, 4, 16)
"""How often the items of each kind stand in the training data; beside them there are items that do not."""

PAIRS = (("contaminated", "base"), ("clean", "base"), ("contaminated", "clean"))
"""What is tested against which reference."""

TESTS = ("neighbourhood", "Min-20%", "Min-20% less the reference's")
_CONTEXT_TOKENS = 256  # of the base: a longer item would be tested in part
_TRAINING: dict[str, Any] = {
    "epochs": 1, "optimizer": "muon", "learning_rate": 1.5e-2, "schedule": "wsd", "decay": 0.5,
    "batch_tokens": 4096, "sequence_length": _CONTEXT_TOKENS, "seed": 0,
}  # fmt: skip


def demonstrate(out: Path, *, items: int, tested: int, samples: int, rows: int) -> dict[str, Any]:
    """Train both models and test both: the results by pair and kind of item, with areas and curves."""
    tests, others = (_fitting(data_folder() / "gsm8k" / f"{split}.jsonl.gz") for split in ("test", "train"))
    kinds = {f"seen-{copies}": copies for copies in SEEN} | {"unseen": 0}
    files = {kind: _write(out / f"{kind}.jsonl", _part(tests, n, items)) for n, kind in enumerate(kinds)}
    common = others[len(SEEN) * items :][:rows]
    told: dict[str, Any] = {"items": items, "tested": tested, "samples": samples, "rows": len(common)}
    data = {}
    for model, source in (("contaminated", tests), ("clean", others)):
        texts = common + [t for n, copies in enumerate(SEEN) for t in _part(source, n, items) * copies]
        random.Random(2).shuffle(texts)
        data[model] = _write(out / f"train-{model}.jsonl", texts)
        if not (out / model).exists():  # else it is of a run that was stopped
            dusk.pretrain(BASE, out / model, data=[data[model]], **_TRAINING)
        manifest = read_manifest(out / model)
        assert manifest is not None
        told["tokens"] = manifest.results["tokens"]
    for model, reference in PAIRS:
        found = contamination(
            out / model, reference=BASE if reference == "base" else out / reference, train=[data[model]],
            task=[str(file) for file in files.values()], items=tested, samples=samples,
            neighbours=out / "neighbours.jsonl",
        )  # fmt: skip
        results = dict(zip(kinds, found.tasks, strict=True))
        pair = told[f"{model}, reference {reference}"] = {k: asdict(result) for k, result in results.items()}
        for kind in list(kinds)[:-1]:
            pair[kind]["roc"] = _curves(results[kind], results["unseen"])
        (out / "contamination.json").write_text(json.dumps(told, indent=1) + "\n")
        print(f"tested: {model}, reference {reference}", flush=True)
    return told


def _curves(seen: TaskResult, unseen: TaskResult) -> dict[str, dict[str, Any]]:
    found = {}
    for test, against in _scores(unseen).items():
        own = _scores(seen)[test]
        curve = roc(own, against)
        found[test] = {"area": area_under(curve), "interval": area_interval(own, against), "curve": curve}
    return found


def _scores(result: TaskResult) -> dict[str, list[float]]:
    """Of each test the items' scores: higher for what is likelier seen."""
    assert result.min_k_reference is not None
    less = [own - other for own, other in zip(result.min_k_scores, result.min_k_reference, strict=True)]
    return dict(zip(TESTS, ([-share for share in result.shares], result.min_k_scores, less), strict=True))


def _fitting(file: Path) -> list[str]:
    """The texts of a file's items that fit the base's context, in one order for ever."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    texts = [item.text for item in read_benchmark(file)]
    texts = [text for text in texts if len(tokenizer(text)["input_ids"]) < _CONTEXT_TOKENS]
    random.Random(1).shuffle(texts)
    return texts


def _part(texts: Sequence[str], number: int, items: int) -> list[str]:
    part = list(texts[number * items : (number + 1) * items])
    assert len(part) == items, f"{len(texts)} texts are too few"
    return part


def _write(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def pairs_of(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The results by pair, as far as they are there."""
    names = (f"{model}, reference {other}" for model, other in PAIRS)
    return {name: told[name] for name in names if name in told}


def results_table(told: dict[str, Any]) -> str:
    """What `dusk contamination` says of each kind of item."""
    rows = [["model", "items", "result < 0.1", "Min-20%", "above reference", "13 words in training"]]
    for pair, kinds in pairs_of(told).items():
        for kind, result in kinds.items():
            figures = [result[name] for name in ("result", "min_k", "min_k_above", "overlap")]
            rows.append([pair, kind, *(f"{figure:.2f}" for figure in figures)])
    return "\n".join(aligned(rows))


def areas_table(told: dict[str, Any]) -> str:
    """The areas under the curves, seen items against unseen ones."""
    rows = [["AUC", *(f"seen {copies} ×" for copies in SEEN)]]
    for pair, kinds in pairs_of(told).items():
        for test in TESTS:
            areas = [kinds[f"seen-{copies}"]["roc"][test] for copies in SEEN]
            cells = [f"{a['area']:.2f} ({a['interval'][0]:.2f} to {a['interval'][1]:.2f})" for a in areas]
            rows.append([f"{test}: {pair}", *cells])
    return "\n".join(aligned(rows))


def figure(told: dict[str, Any]) -> str:
    """The ROC of the contaminated model, a panel a test and reference, a line a number of copies."""
    panels = []
    for test, reference, title in (
        (TESTS[0], "base", "Neighbourhood, reference: base"),
        (TESTS[0], "clean", "Neighbourhood, reference: clean"),
        (TESTS[1], "base", "Min-20%"),
        (TESTS[2], "base", "Min-20% less the base's"),
    ):
        lines = {}
        pair = f"contaminated, reference {reference}"
        for copies in SEEN if pair in told else ():
            curve = told[pair][f"seen-{copies}"]["roc"][test]
            lines[f"seen {copies} ×, area {curve['area']:.2f}"] = curve["curve"]
        if lines:
            panels.append(Panel(title, lines))
    return roc_figure(panels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=int, default=50, help="of each kind [50]")
    parser.add_argument("--tested", type=int, help="of each kind [all]")
    parser.add_argument("--samples", type=int, default=20, help="neighbours of each item [20]")
    parser.add_argument("--rows", type=int, default=2000, help="of the training split in both models [2000]")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = demonstrate(
        options.out,
        items=options.items,
        tested=options.tested or options.items,
        samples=options.samples,
        rows=options.rows,
    )
    (options.out / "contamination.svg").write_text(figure(found))
    print(f"{results_table(found)}\n\n{areas_table(found)}\n")
    print(f"{found['tokens']:,} tokens of training each; {time.process_time():.0f} s of processor time")
