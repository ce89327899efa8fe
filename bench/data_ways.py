"""The ways to decontaminate that `bench.data` compares: `python -m bench.data_ways WAY ROWS OUT [--processes N]`.

Each reads the rows, compares prompt and answer with the H6 sets by runs of 13 words, and writes the rows that
are clean. The peers are given as many processes as dusk: each takes every n-th block of lines.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.data_rows import benchmarks, write_rows

WORDS = 13
_BLOCK = 1000

Clean = Callable[[str], bool]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=["prepare", "dusk", *PEERS])
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--count", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.way == "prepare":
        write_rows(given.rows, given.count)
    elif given.way == "dusk":
        dusk(given.rows, given.out, given.processes)
    else:
        spread(given.way, given.rows, given.out, given.processes)


def dusk(rows: Path, out: Path, processes: int) -> None:
    from dusk.data.decontaminate import decontaminate

    told = decontaminate(
        out, data=[rows], against=benchmarks(), words=WORDS, common_rows=0, workers=processes
    )
    (out.with_name(f"{out.name}.kept.json")).write_text(json.dumps({"kept": told["kept"]}))


def items() -> Iterator[str]:
    from dusk.data.benchmarks import read_benchmark

    for file in benchmarks():
        yield from (item.text for item in read_benchmark(file))


def janitor() -> Clean:
    """lm-evaluation-harness's, as it is installed: the C++ module is not in the package."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from lm_eval.decontamination.janitor import Janitor

    made = Janitor(ngram_n=WORDS)
    for text in items():
        made.register_contaminant_python(text)

    def clean(text: str) -> bool:
        return made.clean_python(text) == [text] if len(text) > 200 else not dirty(text)

    def dirty(text: str) -> bool:
        from lm_eval.decontamination.janitor import word_ngrams

        return any(gram in made.dirt_ngrams for gram in word_ngrams(made.normalize_string(text), WORDS))

    return clean


def datatrove() -> Clean:
    """Datatrove's n-gram filter with its own hashes and words (spaCy); its index is made of the same items.

    It needs xxhash below 4, whose functions take text, and spaCy: `bench.data` gives it a Python of its own.
    """
    from datatrove.data import Document
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer

    config = NGramsDecontConfig(n_grams=WORDS)
    indexer = object.__new__(NGramsDecontIndexer)
    made = NGramsDecontFilter("index", config)
    indexer.config, indexer.tokenizer, indexer.hash_func = config, made.tokenizer, made.hash_func
    made._index_hashes = {hashed: "h6" for text in items() for hashed in indexer.compute_hashes(text)}

    def clean(text: str) -> bool:
        return made.filter(Document(text=text, id="0")) is True

    return clean


PEERS: dict[str, Callable[[], Clean]] = {"janitor": janitor, "datatrove": datatrove}


def spread(way: str, rows: Path, out: Path, processes: int) -> None:
    """The rows in so many processes; each writes its own file."""
    out.mkdir()
    workers = [
        multiprocessing.get_context("spawn").Process(target=one, args=(way, rows, out, number, processes))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(1)
    kept = sum(int((out / f"{number}.kept").read_text()) for number in range(processes))
    out.with_name(f"{out.name}.kept.json").write_text(json.dumps({"kept": kept}))


def one(way: str, rows: Path, out: Path, number: int, processes: int) -> None:
    clean = PEERS[way]()
    kept = 0
    with (
        rows.open(encoding="utf-8") as lines,
        (out / f"{number}.jsonl").open("w", encoding="utf-8") as written,
    ):
        for place, line in enumerate(lines):
            if place // _BLOCK % processes != number:
                continue
            row = json.loads(line)
            if clean(f"{row['prompt']}\n{row['completion']}"):
                written.write(line)
                kept += 1
    (out / f"{number}.kept").write_text(str(kept))


if __name__ == "__main__":
    main(sys.argv[1:])
