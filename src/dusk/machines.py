"""GPUs as their makers state them: what a budget reckons with, and what a training run is measured against."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from dusk.errors import SettingError

_FILE = Path(__file__).with_name("machines.yaml")
_GPUS = re.compile(r"(?:(\d+)x)?([A-Za-z0-9]+)")


@dataclass(frozen=True)
class Gpu:
    """One GPU; decimal units, bf16 products dense, `link_gb_s` in one direction within its machine."""

    name: str
    memory_gb: float
    memory_tb_s: float
    peak_tflops: float
    watts: float
    link_gb_s: float
    node_gpus: int
    source: str


@dataclass(frozen=True)
class Machine:
    """So many GPUs of one kind, on as many nodes as they fill."""

    gpu: Gpu
    count: int

    @property
    def nodes(self) -> int:
        """Machines, each with up to `node_gpus`."""
        return -(-self.count // self.gpu.node_gpus)


def known_gpus() -> dict[str, Gpu]:
    """The GPUs of the table by name."""
    rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {name: Gpu(name=name, **row) for name, row in rows.items()}


def parse_machine(text: str) -> Machine:
    """`8xH100`, `H200`; raises `SettingError` for a GPU that the table does not have."""
    gpus = known_gpus()
    match = _GPUS.fullmatch(text.strip())
    by_name = {name.lower(): gpu for name, gpu in gpus.items()}
    gpu = by_name.get(match[2].lower()) if match else None
    count = int(match[1] or 1) if match else 0
    if gpu is None or count == 0:
        raise SettingError(
            f"--gpus is {text!r}: it is a number and a name, such as 8xH100.",
            remedy=f"The table has {', '.join(gpus)} (src/dusk/machines.yaml).",
        )
    return Machine(gpu, count)
