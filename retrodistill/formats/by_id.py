"""Formats that name queries and documents by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from retrodistill.errors import InputError
from retrodistill.formats.format import (
    LABELS,
    NO_POSITIVE,
    Format,
    JudgedList,
    Left,
    Listed,
    Written,
    best_first,
    dumped,
    field,
    lines,
    number,
    objects,
    parse,
    scores_of,
    sides,
    split_by_score,
    write_lines,
)


class ColBERT(Format):
    """ColBERT's n-way lists: `[qid, [pid, score], [pid, score], ...]` a line, the first one positive."""

    kind: Literal["colbert"] = "colbert"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """Pairs, or bare pids where the file has no scores."""
        for where, line in lines(path):
            row = parse(line, where)
            if not isinstance(row, list) or len(row) < 2:
                raise InputError(f"{where}: expected a list such as [qid, [pid, score], [pid, score]]")
            yield JudgedList(str(row[0]), tuple(self._listed(place, item, where) for place, item in enumerate(row[1:])))

    @staticmethod
    def _listed(place: int, item: Any, where: str) -> Listed:
        label = int(place == 0)
        if isinstance(item, list):
            if len(item) != 2:
                raise InputError(f"{where}: got {item!r}, expected [pid, score]")
            return Listed(str(item[0]), number(item[1], where), label)
        return Listed(str(item), None, label)

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """A line for each positive, its negatives behind it; ids that are whole numbers are written as such.

        Behind a positive with a score stand those that have one, behind one without all of them, as bare pids.
        """

        def found() -> Iterator[str | Left]:
            for query, documents, _ in lists:
                positives, rest = sides(documents)
                yield Left(0 if positives else len(rest), NO_POSITIVE)
                if positives and all(doc.score is not None for doc in positives):
                    yield split_by_score(rest)[1]
                elif all(doc.score is None for doc in positives):
                    yield scores_of(rest if positives else ())
                for positive in positives:
                    row: list[Any] = [_as_id(doc.document) for doc in (positive, *rest)]
                    if positive.score is not None:
                        scored, _ = split_by_score((positive, *rest))
                        row = [[_as_id(doc.document), doc.score] for doc in scored]
                    yield dumped([_as_id(query), *row])

        return write_lines(path, found())


class MarginMSE(Format):
    """Triples for Margin-MSE: `score_pos TAB score_neg TAB qid TAB pid_pos TAB pid_neg` a line."""

    kind: Literal["margin_mse"] = "margin_mse"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """A positive and a negative a line."""
        for where, line in lines(path):
            columns = line.split("\t")
            if len(columns) != 5:
                raise InputError(
                    f"{where}: got {len(columns)} columns, expected score_pos, score_neg, qid, pid_pos, pid_neg"
                )
            first, second, query, positive, negative = columns
            yield JudgedList(
                query, (Listed(positive, number(first, where), 1), Listed(negative, number(second, where), 0))
            )

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """Every positive with every negative of its query, as far as they have scores."""

        def found() -> Iterator[str | Left]:
            for query, documents, _ in lists:
                scored, bare = split_by_score(documents)
                yield bare
                positives, negatives = sides(scored)
                if not (positives and negatives):
                    yield Left(len(scored), "documents of queries without a scored positive and a scored negative")
                for positive in positives:
                    for negative in negatives:
                        pair = f"{positive.score!r}\t{negative.score!r}"
                        yield f"{pair}\t{query}\t{positive.document}\t{negative.document}"

        return write_lines(path, found())


class HardNegatives(Format):
    """sentence-transformers' msmarco-hard-negatives: `{"qid": ..., "pos": [...], "neg": {system: [...]}}` a line.

    Negatives of several systems are joined, in the order in which they stand. Its scores come as a pickle, which is not
    read here: score the candidates, or import them from another format.
    """

    kind: Literal["msmarco_hard_negatives"] = "msmarco_hard_negatives"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """Ids; `pos` and `neg` may also hold `{"pid": ..., "ce-score": ...}`, as the mined files have it."""
        for where, row in objects(path):
            found = field(row, "neg", dict, where)
            systems = [field(found, system, list, where) for system in found]
            positives = [self._listed(item, 1, where) for item in field(row, "pos", list, where)]
            negatives = [self._listed(item, 0, where) for system in systems for item in system]
            once: dict[str, Listed] = {}
            for doc in (*positives, *negatives):
                once.setdefault(doc.document, doc)
            yield JudgedList(str(field(row, "qid", object, where)), tuple(once.values()))

    @staticmethod
    def _listed(item: Any, label: int, where: str) -> Listed:
        if isinstance(item, dict):
            score = item.get("ce-score")
            return Listed(
                str(field(item, "pid", object, where)), None if score is None else number(score, where), label
            )
        return Listed(str(item), None, label)


class PyLate(Format):
    """PyLate's distillation rows: `{"query_id": ..., "document_ids": [...], "scores": [...]}` a line."""

    kind: Literal["pylate"] = "pylate"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """Ids and scores; no labels."""
        for where, row in objects(path):
            ids, scores = field(row, "document_ids", list, where), field(row, "scores", list, where)
            if len(ids) != len(scores):
                raise InputError(
                    f"{where}: got {len(ids)} document_ids and {len(scores)} scores, expected one for each"
                )
            documents = tuple(Listed(str(doc), number(score, where)) for doc, score in zip(ids, scores, strict=True))
            yield JudgedList(str(field(row, "query_id", object, where)), documents)

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """Documents that have a score, the best first."""

        def found() -> Iterator[str | Left]:
            for query, documents, _ in lists:
                scored, bare = split_by_score(documents)
                yield bare
                yield Left(sum(bool(doc.label) for doc in scored), LABELS)
                if scored:
                    kept = [(doc.document, doc.score) for doc in best_first(scored)]
                    ids, scores = zip(*kept, strict=True)
                    yield dumped({"query_id": query, "document_ids": ids, "scores": scores})

        return write_lines(path, found())


class Trec(Format):
    """A TREC run: `qid Q0 docid rank score tag` a line; its scores are the teacher's."""

    kind: Literal["trec"] = "trec"

    def read(self, path: Path) -> Iterator[JudgedList]:
        """A document a line."""
        for where, line in lines(path):
            columns = line.split()
            if len(columns) != 6:
                raise InputError(f"{where}: got {len(columns)} columns, expected qid Q0 docid rank score tag")
            yield JudgedList(columns[0], (Listed(columns[2], number(columns[4], where)),))

    def write(self, lists: Iterable[JudgedList], path: Path) -> Written:
        """By falling score, which a rank counts.

        Raises:
            InputError: an id has a space, which would be read as two columns.
        """

        def found() -> Iterator[str | Left]:
            for query, documents, _ in lists:
                scored, bare = split_by_score(documents)
                yield bare
                yield Left(sum(bool(doc.label) for doc in scored), LABELS)
                for rank, doc in enumerate(best_first(scored), start=1):
                    if len(f"{query} {doc.document}".split()) != 2:
                        raise InputError(
                            f"ids {query!r} and {doc.document!r}: a TREC run holds no spaces in ids; export another"
                        )
                    yield f"{query} Q0 {doc.document} {rank} {doc.score!r} retrodistill"

        return write_lines(path, found())


def _as_id(name: str) -> str | int:
    """ColBERT's ids are whole numbers where they can be."""
    return int(name) if name.isdecimal() and str(int(name)) == name else name


FORMATS = {
    "colbert": ColBERT,
    "margin_mse": MarginMSE,
    "msmarco_hard_negatives": HardNegatives,
    "pylate": PyLate,
    "trec": Trec,
}
