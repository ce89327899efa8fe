"""Choosing how to grow: the maps of one depth compared on held-out text, before anything is written."""

from dusk.scan.run import ScanReport, scan

__all__ = ["ScanReport", "scan"]
