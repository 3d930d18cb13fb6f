"""A test collection: a corpus, queries and relevance judgements by split, as BEIR lays them out in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from retrodistill.collections.jsonl import IN_MEMORY, read_texts
from retrodistill.collections.judgements import read_qrels
from retrodistill.collections.texts import Texts
from retrodistill.errors import InputError, nearest
from retrodistill.files import digest_of
from retrodistill.runs import Qrels

_USUAL = ("train", "dev", "test")
_LAYOUT = "a BEIR folder has corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv"


class MadeQuery(NamedTuple):
    """A query made of a document.

    Attributes:
        id: as no query of the collection is called.
        text: what is asked.
        source: id of the document that it is made of.
        role: what its source is to it: `relevant`, grade 1; `unlabelled`, found or not as any document; `barred` from
            its candidates.
    """

    id: str
    text: str
    source: str
    role: Literal["relevant", "unlabelled", "barred"] = "relevant"


class Collection:
    """What is searched, what is asked and what is relevant; made by `open_collection`, or from parts in Python.

    Args:
        name: what tables and results call it.
        corpus: the documents.
        queries: the queries of all splits.
        judgements: by split the qrels, or their file, which is read when it is first asked for.
        barred: by query the document that it is made of, where that is no candidate of it.
    """

    def __init__(
        self,
        name: str,
        corpus: Texts,
        queries: Texts,
        judgements: Mapping[str, Path | Qrels],
        barred: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.corpus = corpus
        self.queries = queries
        self._judgements = dict(judgements)
        self._barred = dict(barred or {})

    @cached_property
    def splits(self) -> list[str]:
        """The splits that have judgements: train, dev, test, then others by name."""
        usual = [split for split in _USUAL if split in self._judgements]
        return usual + sorted(set(self._judgements) - set(usual))

    def refuse_spaces(self) -> None:
        """Say before the work that its results could not be written as a TREC run.

        Raises:
            InputError: an id of a document or a query is empty or holds white space.
        """
        for what, texts in (("document", self.corpus), ("query", self.queries)):
            name = texts.spaced()
            if name is not None:
                raise InputError(
                    f"{self.name}: the {what} id {name!r} is empty or holds white space, which a TREC run file cannot "
                    "carry; rename it in the collection"
                )

    def qrels(self, split: str) -> Qrels:
        """The judgements of a split, read once; they are shared, so leave them as they are.

        Raises:
            InputError: there is no such split, or its file is broken or names what the collection does not have.
        """
        if not self._judgements:
            raise InputError(f"{self.name} has no judgements; expected a file qrels/{split}.tsv in its folder")
        if split not in self._judgements:
            raise InputError(f"{self.name} has no split {split!r}; {nearest(split, self.splits)}")
        judgements = self._judgements[split]
        if isinstance(judgements, Path):
            judgements = self._judgements[split] = read_qrels(judgements, self.queries, self.corpus)
        return judgements

    def query_ids(self, split: str) -> list[str]:
        """The queries of a split that have a judgement, in the order of the queries' file."""
        judged = self.qrels(split)
        return [query for query in self.queries.ids if query in judged]

    def hold_out(self, split: str, share: float, name: str = "dev") -> Collection:
        """The same collection with a share of a split's queries moved to a split of their own.

        A query's hash decides, not chance and not its place, so that more queries leave each where it was.

        Args:
            split: where queries are taken from.
            share: how many of them, above 0 and below 1.
            name: of the split they make.

        Raises:
            InputError: there is a split of that name, or one of the two would be empty.
        """
        if name in self._judgements:
            raise InputError(f"{self.name} has a split {name!r} of its own; use it, and hold nothing out")
        qrels = self.qrels(split)
        held = {query for query in qrels if _place(query) < share}
        if not 0 < len(held) < len(qrels):
            raise InputError(
                f"holding out {share:g} of the {len(qrels)} queries of {split!r} leaves {len(qrels) - len(held)} to "
                f"train on and {len(held)} to measure on; choose another share"
            )
        kept = {query: grades for query, grades in qrels.items() if query not in held}
        moved = {query: grades for query, grades in qrels.items() if query in held}
        judgements = {**self._judgements, split: kept, name: moved}
        return Collection(self.name, self.corpus, self.queries, judgements, self._barred)

    def with_queries(self, made: Sequence[MadeQuery], split: str) -> Collection:
        """The same collection with queries made of its documents in a split, beside those that are there.

        Raises:
            InputError: an id is taken.
        """
        taken = next((query.id for query in made if query.id in self.queries), None)
        if taken is not None:
            raise InputError(f"{self.name} has a query {taken!r}, and one made of a document would be called so too")
        queries = self.queries.with_queries([(query.id, query.text) for query in made])
        here = dict(self.qrels(split)) if split in self._judgements else {}
        here.update((query.id, {query.source: 1} if query.role == "relevant" else {}) for query in made)
        barred = {**self._barred, **{query.id: query.source for query in made if query.role == "barred"}}
        return Collection(self.name, self.corpus, queries, {**self._judgements, split: here}, barred)

    def barred(self, query: str) -> frozenset[str]:
        """Documents that never answer a query: itself, as BEIR has it, and what it was made of where that is barred."""
        return frozenset((query, self._barred.get(query, query)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over corpus and queries; judgements do not count."""
        return digest_of([self.corpus.digest, self.queries.digest])

    def summary(self) -> str:
        """Name and counts in one line: `scifact: 5,183 documents, queries: 809 train / 300 test`."""
        empty = f" ({self.corpus.empty:,} empty)" if self.corpus.empty else ""
        by_split = [f"{len(self.qrels(split)):,} {split}" for split in self.splits]
        queries = " / ".join(by_split) or f"{len(self.queries):,} unjudged"
        return f"{self.name}: {len(self.corpus):,} documents{empty}, queries: {queries}"


def _place(query: str) -> float:
    """A number in [0, 1) that a query's id alone decides."""
    digest = hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def open_folder(folder: Path, name: str | None = None, in_memory: int = IN_MEMORY) -> Collection:
    """Open a BEIR-format folder. Without `qrels/` it has no splits, which is enough to search it.

    Args:
        folder: holds corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.
        name: the folder's own, where None.
        in_memory: files of more bytes are mapped, not held in memory.

    Raises:
        InputError: a file is missing or broken; qrels are only read when they are asked for.
    """
    try:
        name = name or folder.resolve().name
        missing = [file for file in ("corpus.jsonl", "queries.jsonl") if not (folder / file).is_file()]
        if missing:
            raise InputError(f"{folder}: there is no {' and no '.join(missing)}; {_LAYOUT}{_nested(folder)}")
        judgements = {path.stem: path for path in (folder / "qrels").glob("[!.]*.tsv")}
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from error
    corpus = read_texts(folder / "corpus.jsonl", "document", name, in_memory)
    queries = read_texts(folder / "queries.jsonl", "query", name, in_memory)
    return Collection(name, corpus, queries, judgements)


def _nested(folder: Path) -> str:
    found = sorted(path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/corpus.jsonl"))
    if not found:
        return ""
    shown = ", ".join(str(path) for path in found[:3])
    return f"; did you mean {shown}?" if len(found) <= 3 else f"; did you mean one of {shown}, ...?"
