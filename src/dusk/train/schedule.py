"""Learning-rate schedules, as a factor of the peak rate.

`wsd` is warm-up, stable, decay (Hu et al. 2024, MiniCPM, section 4) with a linear decay to zero, the plain
one of the forms that Hägele et al. 2024 (section 3) compare; their 1 - sqrt came out a little better.
"""

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "linear", "wsd"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "cosine", "linear", "wsd")


def rate_factor(
    step: int, steps: int, schedule: Schedule, *, warmup: float = 0.0, decay: float = 0.25
) -> float:
    """The factor for update `step` (from 0) of `steps`; `warmup` and `decay` are shares of all updates."""
    warm_steps = math.ceil(warmup * steps - 1e-9)  # 0.1 x 70 is a little above 7 in floating point
    if step < warm_steps:
        return (step + 1) / warm_steps
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        begin = steps - max(1, round(decay * steps))
        return 1.0 if step < begin else (steps - step) / (steps - begin + 1)
    done = (step - warm_steps) / max(1, steps - warm_steps)
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
