"""The guard against spikes: an update whose loss or gradient is far off what the run had lately is not made.

OLMo 2 (arXiv 2501.00656, section 3.3) skips steps so: off by a number of standard deviations from the mean of the
last steps. What is no number is always skipped. The history is the metrics file's, so a run that is continued
judges as one that was never stopped.
"""

import math
from collections import deque
from collections.abc import Iterable
from statistics import fmean, pstdev

from dusk.errors import WorkError

_WINDOW = 128  # accepted steps that are looked back on
_FEWEST = 16  # before that only what is no number is skipped
_MOST_IN_A_ROW = 10


class SpikeGuard:
    """Judges each step by loss and norm of the gradient.

    `deviations`: how many standard deviations above the mean is too far.
    """

    def __init__(self, deviations: float) -> None:
        self.deviations = deviations
        self.losses: deque[float] = deque(maxlen=_WINDOW)
        self.norms: deque[float] = deque(maxlen=_WINDOW)
        self.in_a_row = 0

    def recall(self, steps: Iterable[tuple[float, float]]) -> None:
        """Take over the accepted steps of before, as loss and norm."""
        for loss, norm in steps:
            self.accepted(loss, norm)

    def accepted(self, loss: float, norm: float) -> None:
        """An update was made."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.in_a_row = 0

    def refuses(self, step: int, loss: float, norm: float) -> bool:
        """Whether an update is not to be made.

        Raises:
            WorkError: too many in a row; a run that has gone wrong is not mended by skipping.
        """
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite and not self._far(loss, self.losses) and not self._far(norm, self.norms):
            return False
        self.in_a_row += 1
        if self.in_a_row >= _MOST_IN_A_ROW:
            raise WorkError(
                f"the run diverged: {_MOST_IN_A_ROW} updates in a row were skipped, the last at step {step} with "
                f"loss {loss:.4g} and norm of the gradient {norm:.4g}",
                remedy="Lower the learning rate, lengthen the warm-up, or look at the data there.",
            )
        return True

    def _far(self, value: float, before: deque[float]) -> bool:
        if len(before) < _FEWEST:
            return False
        return value > fmean(before) + self.deviations * pstdev(before)
