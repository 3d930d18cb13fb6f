"""Ranked lists: what every retriever returns, TREC run files hold and metrics read.

Scores are compared as 32-bit floats and ties go to the greater document id, as trec_eval has it, at every cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from retrodistill.errors import InputError
from retrodistill.files import atomic_file

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Document ids, best first: float32 score descending, then document id descending (trec_eval's rule)."""
    by_id = sorted(scores, reverse=True)
    with np.errstate(over="ignore"):
        values = np.fromiter((scores[doc] for doc in by_id), dtype=np.float32, count=len(by_id))
    return [by_id[i] for i in np.argsort(-values, kind="stable")]


def cut(scores: Mapping[str, float], depth: int) -> dict[str, float]:
    """The best `depth` documents of one query, best first."""
    return {doc: scores[doc] for doc in ranked(scores)[:depth]}


def id_order(ids: Sequence[str]) -> np.ndarray:
    """For each row its place among the ids sorted descending (int64, shape (n,)): the tie-breaker of `top_rows`."""
    order = sorted(range(len(ids)), key=ids.__getitem__, reverse=True)
    places = np.empty(len(ids), dtype=np.int64)
    places[order] = np.arange(len(ids))
    return places


def top_rows(scores: np.ndarray, depth: int, order: np.ndarray) -> np.ndarray:
    """Rows of the best `depth` scores, best first, ties at the cut included in the rule.

    Args:
        scores: float32, shape (n,).
        depth: how many to keep; fewer come back where there are fewer.
        order: `id_order` of the rows.

    Returns:
        int64 rows, shape (min(depth, n),).

    Raises:
        InputError: a score is NaN, which has no place in an order.
    """
    lost = int(np.count_nonzero(np.isnan(scores)))
    if lost:
        raise InputError(
            f"{lost:,} of {len(scores):,} scores are NaN; expected numbers "
            f"(a model that gives NaN has diverged in training)"
        )
    if 0 < depth < len(scores):
        threshold = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        kept = np.flatnonzero(scores >= threshold)
    else:
        kept = np.arange(len(scores))
    return kept[np.lexsort((order[kept], -scores[kept]))][:depth]


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a TREC run file: `query Q0 document rank score tag`.

    Raises:
        InputError: an id holds white space or a score is no finite number, which the format cannot carry.
    """
    tag = "_".join(tag.split()) or "retrodistill"
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for query, scores in run.items():
            _refuse_unwritable(query)
            for rank, document in enumerate(ranked(scores), start=1):
                _refuse_unwritable(document)
                # As a Python float: the repr of NumPy's numbers is `np.float32(1.5)`.
                score = float(scores[document])
                if not math.isfinite(score):
                    raise InputError(f"query {query!r}, document {document!r}: the score {score} is no finite number")
                stream.write(f"{query} Q0 {document} {rank} {score!r} {tag}\n")


def _refuse_unwritable(name: str) -> None:
    if name.split() != [name]:
        raise InputError(
            f"the id {name!r} is empty or holds white space, which a TREC run file cannot carry; "
            f"rename it in the collection"
        )


def read_run(path: Path) -> Run:
    """Read a TREC run file.

    Raises:
        InputError: the file is missing or cannot be read; naming file and line, where a line has not six fields, a
            score is no finite number, or a document stands twice under a query.
    """
    run: Run = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        fields = line.split()
        where = f"{path}, line {number}"
        if len(fields) != 6:
            raise InputError(
                f"{where}: got {len(fields)} fields, expected the 6 of a TREC run: "
                f"query Q0 document rank score tag (ids cannot hold spaces)"
            )
        query, _, document, _, score, _ = fields
        documents = run.setdefault(query, {})
        if document in documents:
            raise InputError(f"{where}: document {document!r} stands twice under query {query!r}; keep one line")
        documents[document] = _finite(score, where)
    if not run:
        raise InputError(f"{path}: the run file is empty; expected lines `query Q0 document rank score tag`")
    return run


def _lines(path: Path) -> Iterable[str]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from stream
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: there is no such run file; `retrodistill evaluate SYSTEM --out DIR` writes one"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _finite(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: the score {text!r} is no finite number")
    return value
