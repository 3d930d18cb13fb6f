"""Measures a student while it is trained: a whole search of a held-back split, by the protocol of every evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from retrodistill.encoders import Precision
from retrodistill.errors import InputError
from retrodistill.evaluation import protocol
from retrodistill.indexing.index import search
from retrodistill.registry import table
from retrodistill.retrieval.encoded import EncoderRetriever

if TYPE_CHECKING:
    from retrodistill.collections import Collection
    from retrodistill.students.student import Student


class Dev:
    """A split that is searched with the weights of the moment.

    Args:
        collection: what is searched.
        split: whose queries and judgements count; no query of it may be trained on.
        metric: what the best checkpoint is chosen by, an ir_measures name.
        student: what is trained.
        precision: of encoding.

    Raises:
        InputError: nothing encodes what the student emits.
    """

    def __init__(
        self, collection: Collection, split: str, metric: str, student: Student, precision: Precision = "fp32"
    ) -> None:
        self.collection = collection
        self.split = split
        self.metric = metric
        self.precision = precision
        if said := unmeasured(student):
            raise InputError(f"train.evaluate_every: {said}")
        self._retriever = cast(EncoderRetriever, _searched_by(student))

    def __call__(self, model: Any) -> float:
        """The metric of a model on the split."""
        qrels, corpus = self.collection.qrels(self.split), self.collection.corpus
        depth = protocol.needed_depth([self.metric])
        training = model.training
        encoder = self._retriever.encoder_class.of(model.eval(), self.precision)
        queries = self.collection.query_ids(self.split)
        index = self._retriever.exact_index.build(encoder.encode(corpus.texts(), "document"))
        vectors = encoder.encode([self.collection.queries.text(query) for query in queries], "query")
        # one more than is measured, so that a query's own id can go without leaving a gap
        found = search(index, corpus.ids, vectors, depth + 1)
        model.train(training)
        evaluation, _ = protocol.evaluate_run(
            dict(zip(queries, found, strict=True)),
            qrels,
            metrics=[self.metric],
            depth=depth,
            system="in training",
            collection=self.collection.name,
            split=self.split,
            documents=len(corpus),
        )
        return evaluation.metrics[self.metric]


def unmeasured(student: Student) -> str | None:
    """Why a student cannot be measured while it is trained; None where it can."""
    if _searched_by(student) is not None:
        return None
    return f"a {student.kind} student emits {student.emits}, which is not searched; leave it out"


def _searched_by(student: Student) -> EncoderRetriever | None:
    for part in table("retriever").values():
        if issubclass(part, EncoderRetriever) and part.encoder_class.emits == student.emits:
            return part(kind=part.model_fields["kind"].default, model=student.model)
    return None
