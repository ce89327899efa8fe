"""The command line: each command is the shadow of one library function."""

from dusk.cli.main import main

__all__ = ["main"]
