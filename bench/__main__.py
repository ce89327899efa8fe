"""The runner: `python -m bench [--only NAME] [--rounds N] [--json FILE] [--work DIR]`."""

import argparse
import json
import resource
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from bench import (
    data,
    evaluation,
    merge,
    packing,
    scale_base,
    scale_large,
    scale_mistral,
    scale_shared,
    solar_pro,
    solar_pro_full,
    start_up,
    training,
    training_gpu,
    verify,
)
from bench.machine import described

BENCHES: dict[str, ModuleType] = {
    module.NAME: module
    for module in (
        start_up,
        scale_base,
        scale_large,
        scale_mistral,
        scale_shared,
        verify,
        merge,
        training,
        training_gpu,
        solar_pro,
        solar_pro_full,
        evaluation,
        data,
        packing,
    )
}


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="python -m bench", description="Speed and memory, in pairs.")
    made.add_argument("--only", action="append", choices=list(BENCHES), help="this bench (may be repeated)")
    made.add_argument("--rounds", type=int, default=5, help="how often each way is run [5]")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all values here")
    made.add_argument("--work", type=Path, default=Path("runs"), metavar="DIR", help="disk to work on [runs]")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the benches, print each table when it is ready; 1 where a bench failed."""
    given = parser().parse_args(arguments)
    if given.rounds < 1:
        parser().error("--rounds must be 1 or more")
    given.work.mkdir(parents=True, exist_ok=True)
    machine = described(given.work)
    print(f"`{shlex.join(['python', '-m', 'bench', *arguments])}`\n")
    for name, value in machine.items():
        print(f"- {name}: {value}")
    print(f"- peaks are told down to the runner's own {_own_peak_mib():.0f} MiB\n", flush=True)
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=given.work)).resolve()
    tables, failed = [], []
    try:
        for name in given.only or BENCHES:
            try:
                for table in BENCHES[name].bench(work, given.rounds):
                    tables.append(table)
                    print(f"{_shortened(str(table), work)}\n", flush=True)
            except RuntimeError as error:  # a command failed; the other benches still tell
                failed.append(name)
                print(f"{name} failed: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if given.json:
        told = {"machine": machine, "tables": [table.to_json() for table in tables], "failed": failed}
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    return 1 if failed else 0


def _shortened(text: str, work: Path) -> str:
    """Paths of this machine left out: W is the work folder, the others are relative to the repository."""
    folders = {f"{work}": "W", f"{Path(sys.executable).parent}/": "", f"{Path.cwd()}/": ""}
    for folder, name in folders.items():
        text = text.replace(folder, name)
    return text


def _own_peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
