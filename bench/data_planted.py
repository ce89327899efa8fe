"""Recall on planted benchmark items: `python -m bench.data_planted` (needs DUSK_TEST_DATA).

Questions of TruthfulQA and GSM8K are put into a file of clean rows, verbatim, in capitals with other punctuation,
and cut to their first three quarters and first half of words; the file is searched for the six H6 sets.
"""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.data_rows import benchmarks, data_folder
from bench.table import aligned
from dusk.data.benchmarks import read_benchmark
from dusk.data.convert import converted
from dusk.data.decontaminate import decontaminate
from dusk.data.readers import read_rows
from dusk.data.sources import SOURCES

SETS = ("truthfulqa/multiple_choice", "gsm8k/test")


def first(share: float) -> Callable[[str], str]:
    """The first share of a text's words."""
    return lambda text: " ".join(text.split()[: max(1, round(len(text.split()) * share))])


CHANGES: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "capitals, other punctuation": lambda text: re.sub(r"[.,?!;:]", " --", text).upper(),
    "first three quarters": first(0.75),
    "first half": first(0.5),
}


def main() -> None:
    rows = [["set", "change", "planted", "gpt3", "tulu3", "tulu3, of 8 words and more", "wrongly out"]]
    source = SOURCES["alpaca-gpt4"]
    clean = [
        json.dumps(converted(row.fields, source))
        for row in read_rows(data_folder() / "math_word_problems" / "train.jsonl.gz", skip_bad=True)
    ]
    with tempfile.TemporaryDirectory() as work:
        for name in SETS:
            items = list(read_benchmark(data_folder() / f"{name}.jsonl.gz"))
            long_enough = [item for item in items if len(re.findall(r"[^\W_]+", item.prompt)) >= 8]
            for change, changed in CHANGES.items():
                found = {}
                wrong = 0
                for preset in ("gpt3", "tulu3"):
                    file = Path(work) / "rows.jsonl"
                    lines = [
                        json.dumps({"prompt": changed(item.prompt), "completion": "?", "item": item.row})
                        for item in items
                    ]
                    file.write_text("\n".join([*clean, *lines]) + "\n")
                    out = Path(work) / f"{preset}-{len(rows)}"
                    decontaminate(out, data=[file], against=benchmarks(), preset=preset)
                    kept = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
                    missed = {row["item"] for row in kept if "item" in row}
                    found[preset] = len(items) - len(missed)
                    found["long"] = sum(item.row not in missed for item in long_enough)
                    wrong += len(clean) - sum("item" not in row for row in kept)
                shares = (f"{found['gpt3'] / len(items):.1%}", f"{found['tulu3'] / len(items):.1%}")
                rows.append(
                    [
                        name,
                        change,
                        str(len(items)),
                        *shares,
                        f"{found['long'] / len(long_enough):.1%}",
                        str(wrong),
                    ]
                )
    print("\n".join(aligned(rows)))


if __name__ == "__main__":
    main()
