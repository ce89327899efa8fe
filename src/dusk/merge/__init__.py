"""Merging checkpoints: one file of maths a method, and the runner that owns files and memory."""

from dusk.merge.run import MergeReport, merge

__all__ = ["MergeReport", "merge"]
