"""An index on disk: made once from a model and a collection, searched from then on without naming their options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from retrodistill import models
from retrodistill.errors import InputError
from retrodistill.files import atomic_folder, checksum_of_file, refuse_to_replace, write_json
from retrodistill.indexing.index import Index, load_ids, save_ids
from retrodistill.registry import Part, build
from retrodistill.retrieval.encoded import EncoderRetriever, EncoderSearcher
from retrodistill.retrieval.retriever import Retriever

if TYPE_CHECKING:
    from retrodistill.collections import Collection

MANIFEST = "manifest.json"


def write_index(
    retriever: EncoderRetriever, index: Part, collection: Collection, folder: Path, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Encode a collection, index it and keep the index in a folder that says what it was made of.

    Returns:
        The manifest.

    Raises:
        InputError: the index does not take what the model emits, or the folder holds something else.
    """
    refuse_to_replace(folder)
    part = cast(Index, index)
    emits = retriever.encoder_class.emits
    if part.accepts != emits:
        raise InputError(
            f"index {part.kind} accepts {part.accepts}, but {retriever.label} emits {emits}; "
            f"use {retriever.exact_index.kind}"
        )
    searcher = retriever.open(collection)
    built = part.build(searcher.document_vectors)
    searcher.use(built)
    manifest = {
        "artefact": "index",
        "index": part.model_dump(),
        "retriever": retriever.model_dump(),
        "encoder": searcher.identity,
        "collection": collection.name,
        "corpus": collection.corpus.digest,
        "documents": built.size,
        "details": searcher.details,
        **(extra or {}),
    }
    with atomic_folder(folder) as temporary:
        built.save(temporary)
        save_ids(temporary, collection.corpus.ids)
        manifest["checksums"] = {path.name: checksum_of_file(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / MANIFEST, manifest)
    return manifest


class Indexed(Retriever):
    """An index that `retrodistill index` wrote, with the model it was made by."""

    argument: ClassVar[str | None] = "path"
    kind: Literal["index"] = "index"
    path: Path

    def check(self) -> None:
        """Find the index."""
        if not (self.path / MANIFEST).is_file():
            raise InputError(
                f"{self.path} holds no index; `retrodistill index MODEL --data DIR --out {self.path}` writes one"
            )

    @property
    def held_bytes(self) -> int:
        """What its files and its model's take in memory; vectors that are searched on disk do not count."""
        self.check()
        manifest = models.read_json(self.path / MANIFEST)
        index, retriever = manifest.get("index") or {}, manifest.get("retriever") or {}
        files = 0 if index.get("kind") == "mapped" else sum(path.stat().st_size for path in self.path.iterdir())
        return files + (models.weights_bytes(retriever["model"]) if "model" in retriever else 0)

    def open(self, collection: Collection) -> EncoderSearcher:
        """Load the index.

        Raises:
            InputError: the index is damaged, was made from another corpus, or its model has changed since.
        """
        self.check()
        manifest = models.read_json(self.path / MANIFEST)
        try:
            retriever = build("retriever", manifest["retriever"])
            if not isinstance(retriever, EncoderRetriever):
                raise ValueError(f"{retriever.label} has no encoder")
            part = cast(Index, build("index", manifest["index"]))
            corpus, encoder = manifest["corpus"], manifest["encoder"]
        except (InputError, KeyError, ValueError) as error:
            raise InputError(f"{self.path / MANIFEST}: is no manifest of an index ({error}); build it again") from error
        if corpus != collection.corpus.digest:
            raise InputError(
                f"{self.path} was built from {manifest.get('collection')!r}, whose documents differ from those of "
                f"{collection.name!r}; build an index of this collection: retrodistill index"
            )
        searcher = retriever.open(collection)
        if searcher.identity != encoder:
            raise InputError(f"the model {retriever.model!r} has changed since {self.path} was built; build it again")
        self._refuse_damage(manifest.get("checksums") or {})
        if load_ids(self.path) != list(collection.corpus.ids):
            raise InputError(f"{self.path / 'ids.parquet'}: not the documents the index was built from; build it again")
        built = part.load(self.path)
        if built.size != len(collection.corpus):
            raise InputError(
                f"{self.path} holds {built.size:,} vectors for {len(collection.corpus):,} documents; build it again"
            )
        searcher.use(built)
        return searcher

    def _refuse_damage(self, checksums: Mapping[str, str]) -> None:
        """Compare files with what was written; manifests had no checksums once."""
        for name, written in checksums.items():
            path = self.path / name
            if not path.is_file() or checksum_of_file(path) != written:
                raise InputError(f"{path}: cannot be read as it was written; build the index again: retrodistill index")


RETRIEVERS = {"index": Indexed}
