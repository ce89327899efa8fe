"""What all ways of training share: the size of their steps, and the clock that they tell their figures by."""

import time
from typing import Any

from bench.training_data import CONTEXT

STEPS, WARM_STEPS = 6, 1
STEP_TOKENS = 8192
PASS_TOKENS = {"pretrain": 4096, "sft": 2048, "dpo": 4096}  # each the fastest that keeps within TRL's memory
SETTINGS: dict[str, Any] = {
    "tokens": STEPS * STEP_TOKENS,
    "batch_tokens": STEP_TOKENS,
    "sequence_length": CONTEXT,
    "schedule": "constant",
    "warmup": 0.0,
    "learning_rate": 1e-3,
    "threads": 1,
}

Figures = dict[str, list[float]]


class Clock:
    """The ends of steps by the clock and by processor time, which another process on the core does not change."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.items: list[float] = []
        self.whole: tuple[float, float] | None = None

    def step(self, items: float) -> None:
        """A step of so many tokens has ended."""
        self.ends.append((time.perf_counter(), time.process_time()))
        self.items.append(items)

    def done(self, items: float, seconds: float, processor_seconds: float) -> None:
        """All work is done: one figure for the whole of it, in place of those of steps."""
        self.items, self.whole = [items], (seconds, processor_seconds)

    def figures(self, losses: list[float]) -> Figures:
        """Items and seconds of each step after the warm ones (or of the whole), and what must be equal."""
        if self.whole is not None:
            seconds, processor = [self.whole[0]], [self.whole[1]]
            return {"items": self.items, "seconds": seconds, "processor_seconds": processor, "losses": losses}
        spans = list(zip(self.ends[WARM_STEPS - 1 :], self.ends[WARM_STEPS:], strict=False))
        return {
            "items": self.items[WARM_STEPS:],
            "seconds": [end[0] - begin[0] for begin, end in spans],
            "processor_seconds": [end[1] - begin[1] for begin, end in spans],
            "losses": losses,
        }
