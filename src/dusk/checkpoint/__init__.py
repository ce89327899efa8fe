"""Model folders as bytes: reading them without trust, writing them whole or not at all. No torch."""

from dusk.checkpoint.folder import Checkpoint, open_checkpoint, read_config
from dusk.checkpoint.header import Header, TensorEntry, read_header
from dusk.checkpoint.hub import resolve
from dusk.checkpoint.layout import Layout, find_layout
from dusk.checkpoint.manifest import (
    Manifest,
    Source,
    ancestry,
    installed_versions,
    read_manifest,
    write_manifest,
)
from dusk.checkpoint.output import OutputFolder, refuse_existing

__all__ = [
    "Checkpoint",
    "Header",
    "Layout",
    "Manifest",
    "OutputFolder",
    "Source",
    "TensorEntry",
    "ancestry",
    "find_layout",
    "installed_versions",
    "open_checkpoint",
    "read_config",
    "read_header",
    "read_manifest",
    "refuse_existing",
    "resolve",
    "write_manifest",
]
