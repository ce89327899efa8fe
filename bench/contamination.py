"""What the tests of contamination detect: the shipped base, continued with and without a benchmark's items.

    python -m bench.contamination OUT [--copies 4]

The benchmark is 200 passages of documentation that the base never saw; half of them go into the training data of
one of two models that are otherwise trained alike. Prints the results of both and the ROC of seen against unseen.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import dusk
from dusk.data.documentation import write_documentation
from dusk.evaluate.contamination import area_under, contamination, roc

_BASE = Path(__file__).parent.parent / "src/dusk/base/constant"
_WORDS = 60


def passages(file: Path, count: int, *, seed: int) -> list[str]:
    """The first 60 words of so many documents."""
    texts = [" ".join(json.loads(line)["text"].split()[:_WORDS]) for line in file.read_text().splitlines()]
    long = [text for text in texts if len(text.split()) == _WORDS]
    random.Random(seed).shuffle(long)
    return long[:count]


def demonstrate(out: Path, *, copies: int, items: int, samples: int, documents: int) -> dict[str, Any]:
    """Train both models and test both; the numbers that the documentation quotes."""
    docs = out / "docs"
    if not docs.exists():
        write_documentation(docs)
    chosen = passages(docs / "heldout.jsonl", 2 * items, seed=0)
    items = min(items, len(chosen) // 2)
    seen, unseen = chosen[:items], chosen[items:]
    common = passages(docs / "continue.jsonl", documents, seed=1)
    files = {
        name: _write(out / f"{name}.jsonl", texts) for name, texts in (("seen", seen), ("unseen", unseen))
    }
    told: dict[str, Any] = {"copies": copies, "items": items, "samples": samples}
    for name, extra in (("clean", []), ("contaminated", seen * copies)):
        texts = common + extra
        random.Random(2).shuffle(texts)
        data = _write(out / f"train-{name}.jsonl", texts)
        if not (out / name).exists():
            dusk.pretrain(
                _BASE, out / name, data=[data], epochs=1, optimizer="muon", learning_rate=1.5e-2,
                schedule="wsd", batch_tokens=4096, sequence_length=256, seed=0,
            )  # fmt: skip
        tests = {
            part: contamination(
                out / name, reference=_BASE, task=str(file), train=[data], items=items, samples=samples
            ).tasks[0]
            for part, file in files.items()
        }
        told[name] = {
            part: {
                "result": test.result,
                "min_k": test.min_k,
                "above": test.min_k_above,
                "overlap": test.overlap,
            }
            for part, test in tests.items()
        }
        curves = {
            "neighbourhood": roc([-x for x in tests["seen"].shares], [-x for x in tests["unseen"].shares]),
            "min_k": roc(tests["seen"].min_k_scores, tests["unseen"].min_k_scores),
        }
        told[name]["area"] = {test: round(area_under(curve), 3) for test, curve in curves.items()}
        told[name]["roc"] = curves
    (out / "contamination.json").write_text(json.dumps(told, indent=1))
    return told


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = demonstrate(options.out, copies=options.copies, items=100, samples=50, documents=1500)
    for name in ("clean", "contaminated"):
        found[name].pop("roc")
    print(json.dumps(found, indent=1))
