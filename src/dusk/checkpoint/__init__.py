"""Model folders as bytes: reading them without trust, writing them whole or not at all. No torch."""

from dusk.checkpoint.card import card_text, data_licenses, file_license, write_card
from dusk.checkpoint.companions import carry_over
from dusk.checkpoint.copies import Progress, can_share, write_copies
from dusk.checkpoint.deepen import deepen_config
from dusk.checkpoint.expected import expected_tensors, require_fit
from dusk.checkpoint.folder import Checkpoint, open_checkpoint, read_config
from dusk.checkpoint.header import Header, TensorEntry, read_header
from dusk.checkpoint.hub import resolve
from dusk.checkpoint.inspection import Inspection, inspect_checkpoint
from dusk.checkpoint.layout import Layout, find_layout
from dusk.checkpoint.manifest import (
    Manifest,
    Source,
    ancestry,
    installed_versions,
    read_manifest,
    write_json,
    write_manifest,
)
from dusk.checkpoint.output import OutputFolder, refuse_existing
from dusk.checkpoint.runs import NewTensor, in_byte_order
from dusk.checkpoint.shards import Shard, plan_shards, write_index
from dusk.checkpoint.verification import VerifyReport, verify

__all__ = [
    "Checkpoint",
    "Header",
    "Inspection",
    "Layout",
    "Manifest",
    "NewTensor",
    "OutputFolder",
    "Progress",
    "Shard",
    "Source",
    "TensorEntry",
    "VerifyReport",
    "ancestry",
    "can_share",
    "card_text",
    "carry_over",
    "data_licenses",
    "deepen_config",
    "expected_tensors",
    "file_license",
    "find_layout",
    "in_byte_order",
    "inspect_checkpoint",
    "installed_versions",
    "open_checkpoint",
    "plan_shards",
    "read_config",
    "read_header",
    "read_manifest",
    "refuse_existing",
    "require_fit",
    "resolve",
    "verify",
    "write_card",
    "write_copies",
    "write_index",
    "write_json",
    "write_manifest",
]
