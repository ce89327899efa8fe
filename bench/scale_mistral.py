"""`dusk scale` of a Mistral-7B-shaped checkpoint to SOLAR's 48 layers, beside mergekit and plain copies."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.checkpoints import MISTRAL, random_checkpoint
from bench.scale_large import compared
from bench.table import Table

NAME = "scale-mistral"
LAYERS_VARIABLE = "DUSK_BENCH_SCALE_LAYERS"
_LAYERS = 32


def bench(work: Path, rounds: int) -> Iterator[Table]:
    """14.5 GB to 21.5 GB; takes 58 GB of disk (the base, its result and a copy of that), and minutes a round."""
    layers = int(os.environ.get(LAYERS_VARIABLE, _LAYERS))
    base = random_checkpoint(work, "mistral", 0, MISTRAL | {"num_hidden_layers": layers})
    yield compared(base, layers // 4, work, min(rounds, 3), warm_up=0)
    shutil.rmtree(base)
