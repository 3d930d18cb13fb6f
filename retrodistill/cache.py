"""Where things are kept that can be made again: downloads, converted collections, the built-in collection."""

from __future__ import annotations

import os
from pathlib import Path

from retrodistill.errors import InputError


def cache_folder(*parts: str) -> Path:
    """Give a folder to keep things in between runs, so that nothing is downloaded or converted twice.

    Args:
        parts: names below `$RETRODISTILL_CACHE`, or below `~/.cache/retrodistill` where that is not set.

    Returns:
        The folder, which exists.

    Raises:
        InputError: it cannot be made.
    """
    root = os.environ.get("RETRODISTILL_CACHE")
    try:
        base = Path(root).expanduser() if root else Path.home() / ".cache" / "retrodistill"
        folder = base.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder to find
        raise InputError(
            f"cannot make the cache folder ({error}); set RETRODISTILL_CACHE to a folder that can be written to"
        ) from error
    return folder
