"""Is a benchmark in a model's training data? Three tests, and the paper's Table 9 as their result.

Nothing here imports torch until a model is tested.
"""

from dusk.evaluate.contamination.run import ContaminationReport, TaskResult, contamination
from dusk.evaluate.contamination.statistics import area_interval, area_under, min_k, roc

__all__ = [
    "ContaminationReport",
    "TaskResult",
    "area_interval",
    "area_under",
    "contamination",
    "min_k",
    "roc",
]
