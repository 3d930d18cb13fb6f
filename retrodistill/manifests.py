"""Artefacts that say what they were made of: made whole or not at all, and not again while that is the same."""

from __future__ import annotations

import datetime
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retrodistill import console
from retrodistill.files import atomic_folder, digest_of, write_json
from retrodistill.models import read_json

MANIFEST = "manifest.json"

_PACKAGES = ("retrodistill", "torch", "transformers", "sentence-transformers", "faiss-cpu", "bm25s", "numpy")


def say(stop: str, what: str) -> None:
    """A line of the walk: which stop, and what it does."""
    console.say(f"{stop:<9} {what}")


def circumstances() -> dict[str, Any]:
    """When and with what an artefact was made."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "versions": versions}


def unchanged(name: str, folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a folder holds what would be made of these inputs; says so."""
    if not made_of(folder, inputs):
        return False
    say(name, f"unchanged, skipped ({folder})")
    return True


def made_of(folder: Path, inputs: Any) -> bool:
    """Whether a folder holds what would be made of these inputs."""
    manifest = folder / MANIFEST
    return manifest.exists() and read_json(manifest).get("fingerprint") == digest_of(inputs)


def make_once(
    name: str, folder: Path, inputs: Mapping[str, Any], make: Callable[[Path], dict[str, Any]], said: str | None = None
) -> None:
    """Make a stop's artefact in a folder of its own, whole or not at all, unless it is there already.

    Args:
        name: of the stop.
        folder: where the artefact goes.
        inputs: everything that decides it.
        make: fills a folder and tells what its manifest says besides.
        said: what is said where it is there already, if not the stop's name.
    """
    if unchanged(said or name, folder, inputs):
        return
    began = time.perf_counter()
    with atomic_folder(folder) as temporary:
        facts = make(temporary)
        manifest = {
            "artefact": name,
            "fingerprint": digest_of(inputs),
            "inputs": inputs,
            **facts,
            "seconds": round(time.perf_counter() - began, 2),
            **circumstances(),
        }
        write_json(temporary / MANIFEST, manifest)
