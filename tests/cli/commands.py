"""The command line, called as a user calls it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from retrodistill.cli import main


def call(*words: object) -> Result:
    """Run a command; what is no user's mistake comes through as it was raised."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def done(*words: object) -> Result:
    """Run a command that must succeed."""
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result
