"""`dusk scale` of a Mistral-7B-shaped checkpoint to SOLAR's 48 layers, beside mergekit and plain copies."""

from pathlib import Path

from bench.checkpoints import MISTRAL, random_checkpoint
from bench.scale_large import compared
from bench.table import Table

NAME = "scale-mistral"


def bench(work: Path, rounds: int) -> list[Table]:
    """14.5 GB to 21.5 GB; takes 60 GB of disk, and minutes a round."""
    return [compared(random_checkpoint(work, "mistral", 0, MISTRAL), 8, work, min(rounds, 3), warm_up=0)]
