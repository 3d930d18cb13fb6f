"""Keeps sources within the memory that a user grants: vectors stay on disk, what cannot fit is refused beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from retrodistill.emissions import columns_of
from retrodistill.errors import InputError
from retrodistill.indexing.mapped import Mapped
from retrodistill.indexing.multivector import Exhaustive
from retrodistill.memory import Budget, resident, shown
from retrodistill.models import weights_bytes
from retrodistill.registry import parts_in
from retrodistill.retrieval.bm25 import BM25, BM25Searcher
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.indexed import Indexed
from retrodistill.retrieval.others import RunFile, RunFileSearcher
from retrodistill.retrieval.rerank import Rerank
from retrodistill.teachers.from_files import FileTeacher

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.registry import Part
    from retrodistill.retrieval.retriever import Retriever

# Bytes, measured and rounded up. What a found document takes while it is merged, filtered and sampled (600), and what a
# row handed on does in Arrow's columns.
_A_FOUND_ROW, _A_KEPT_ROW = 1_000, 120
# What a byte of text takes while BM25 indexes it (5 to 6), and one of a run file once it is read (3.2).
_A_TEXT_BYTE, _A_RUN_BYTE = 8, 5
_LEAST_QUERIES = Exhaustive.queries_at_once
# An index of vectors is held while it is made, beside what it is made of.
COPIES = 2
QUERIES_AT_ONCE = 8_192


def search_in_place(sources: Mapping[str, tuple[Part, Any]]) -> None:
    """Have bi-encoders search their vectors where they lie: they find the same, and no copy is held in memory."""
    for source, searcher in sources.values():
        if isinstance(source, Dense):
            searcher.use(Mapped().build(searcher.document_vectors))


def foresee(sources: Sequence[Part], judges: Sequence[Part], collection: Collection, budget: Budget) -> None:
    """Refuse, before any is opened, sources and teachers of rules that will not fit together.

    Counted are weights, files of indexes and of judgements, and the words of BM25; what teachers take is kept for them,
    as they are opened when a rule asks.

    Raises:
        InputError: naming what each takes.
    """
    takes = [(part.label, _held_by(part, collection)) for part in (*sources, *judges)]
    named = [f"{label} ({shown(size)})" for label, size in takes if size]
    if named:
        budget.claim(sum(size for _, size in takes), " and ".join(named))
    later = [*judges, *(part.teacher for part in sources if isinstance(part, Rerank))]
    budget.promise(sum(_held_by(part, collection) for part in later))


def _held_by(part: Part, collection: Collection) -> int:
    """Bytes that a part holds once it is open, as far as its files tell; of a language model elsewhere none."""
    held = sum(_held_by(inner, collection) for inner in parts_in(part).values())
    model = getattr(part, "model", None)
    if isinstance(part, BM25):
        held += _A_TEXT_BYTE * _text_bytes(collection)
    elif isinstance(part, RunFile | FileTeacher):
        held += _A_RUN_BYTE * part.path.stat().st_size
    elif isinstance(part, Indexed):
        held += part.held_bytes
    elif isinstance(model, str) and not getattr(part, "url", None):
        held += weights_bytes(model)
    return held


def fit(sources: Mapping[str, tuple[Part, Any]], collection: Collection, budget: Budget) -> None:
    """Have opened sources search within a budget.

    Dense vectors are searched from disk. An index of words, of sparse or of several vectors a text, and a run file are
    held in memory: they are estimated, then made, so that the next finds what is left.

    Raises:
        InputError: a source will not fit.
    """
    for label, (source, searcher) in sources.items():
        emits = cast("Retriever", source).emits
        if isinstance(source, Rerank):
            inner = zip(source.sources, searcher.sources, strict=True)
            fit({part.label: (part, opened) for part, opened in inner}, collection, budget)
        elif emits == "dense":
            share = max(10**6, budget.left // (4 * len(sources)))
            searcher.use(Mapped(memory=share).build(searcher.document_vectors))
        elif emits is not None:
            held = sum(column.nbytes for column in columns_of(searcher.document_vectors).values())
            budget.claim(COPIES * held, f"the index of {label}")
            _ = searcher.index
        elif isinstance(searcher, BM25Searcher):
            budget.claim(_A_TEXT_BYTE * _text_bytes(collection), f"the index of {label}")
            _ = searcher.index
        elif isinstance(searcher, RunFileSearcher):
            budget.claim(_A_RUN_BYTE * searcher.path.stat().st_size, f"reading {label}")
            _ = searcher.run
        observe(budget, label)


def candidates_held(queries: int, found_a_query: int, kept_a_query: int) -> int:
    """Bytes that candidates take: of the queries that are mined together all that is found, of all what is kept."""
    return min(queries, QUERIES_AT_ONCE) * found_a_query * _A_FOUND_ROW + queries * kept_a_query * _A_KEPT_ROW


def queries_at_once(budget: Budget, queries: int, found_a_query: int, kept_a_query: int, most: int) -> int:
    """How many queries are mined together, so that what is known of their documents fits.

    A multiple of what an index of several vectors a text looks at together, where it is not all: the last bits of its
    scores depend on that, and what is mined shall not depend on the budget.

    Raises:
        InputError: not even a few do.
    """
    kept = queries * kept_a_query * _A_KEPT_ROW
    each = found_a_query * _A_FOUND_ROW
    budget.claim(kept + min(_LEAST_QUERIES, queries) * each, f"candidates of {queries:,} queries")
    fitting = (budget.left - kept) // (2 * each)
    return min(most, max(_LEAST_QUERIES, fitting - fitting % _LEAST_QUERIES))


def observe(budget: Budget, label: str) -> None:
    """Stop once more is taken than was granted.

    Raises:
        InputError: naming the source that was being searched.
    """
    if resident() > budget.total:
        raise InputError(
            f"memory: {shown(budget.total)} is not enough: {shown(resident())} are taken with {label}; "
            "grant more, or mine from its run file"
        )


def _text_bytes(collection: Collection) -> int:
    """Length of all documents' texts, from a sample of them."""
    corpus = collection.corpus
    step = max(1, len(corpus) // 1_000)
    sample: Sequence[str] = corpus.texts(range(0, len(corpus), step))
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in sample) * len(corpus) // max(1, len(sample))
