"""The command line: one verb a stop of the road."""

from retrodistill.cli.main import main

__all__ = ["main"]
