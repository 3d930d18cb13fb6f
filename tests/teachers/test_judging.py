import hashlib
from typing import Literal

import numpy as np
import pytest

from retrodistill.candidates import Candidate, Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.mining import mine
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.others import Random
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging
from retrodistill.teachers.cross_encoder import CrossEncoder
from retrodistill.teachers.teacher import Teacher

DOCUMENTS = {f"d{number}": f"text {number}" for number in range(8)} | {"twin": "text 0"}
QUERIES = {"q1": "first", "q2": "second"}


def value(query: str, document: str) -> float:
    """A score that depends on the two texts alone."""
    return int(hashlib.sha256(f"{query}|{document}".encode()).hexdigest()[:6], 16) / 1000


class Toy(Teacher):
    """Scores by `value`; what its judges are asked is kept in `ASKED`."""

    kind: Literal["toy"] = "toy"
    version: int = 1
    part: int = 3
    fail_at: int | None = None
    nan_at: tuple[str, str] | None = None

    def open(self, collection):
        return ToyJudge(self, collection)


ASKED: list[list[tuple[str, str]]] = []


@pytest.fixture(autouse=True)
def _nothing_asked():
    ASKED.clear()


class ToyJudge:
    def __init__(self, options, collection):
        self.options, self.collection = options, collection
        self.identity = {"kind": "toy", "version": options.version}
        self.pairs_a_part = options.part

    def query_text(self, query_id):
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id):
        return self.collection.corpus.text(doc_id)

    def score(self, query_ids, doc_ids):
        if self.options.fail_at == len(ASKED):
            raise KeyboardInterrupt
        pairs = list(zip(query_ids, doc_ids, strict=True))
        ASKED.append(pairs)
        scores = [value(self.query_text(query), self.document_text(doc)) for query, doc in pairs]
        if self.options.nan_at in pairs:
            scores[pairs.index(self.options.nan_at)] = np.nan
        return np.array(scores, dtype=np.float32)


def made(documents=None, queries=None) -> Collection:
    corpus = Texts.documents("toy", [(key, "", text) for key, text in (documents or DOCUMENTS).items()])
    return Collection("toy", corpus, Texts.queries("toy", list((queries or QUERIES).items())), {})


def candidates(**lists: str) -> Candidates:
    rows = {
        query: [Candidate(doc, "x", rank, 1.0, None) for rank, doc in enumerate(docs.split(), 1)]
        for query, docs in lists.items()
    }
    return Candidates.of(rows)


BOTH = candidates(q1="d3 d0 d1 d2", q2="d0 d4 d5")
PAIRS = list(zip(BOTH.query_ids, BOTH.doc_ids, strict=True))


@pytest.fixture
def store(tmp_path):
    return ScoreStore(tmp_path / "scores")


def parts(store: ScoreStore) -> list[bytes]:
    """The parts of the one teacher in a store, in the order of writing."""
    (folder,) = store.root.iterdir()
    return [path.read_bytes() for path in sorted(folder.glob("part-*"))]


def expected(found: Candidates, collection: Collection) -> list[float]:
    return [
        value(collection.queries.text(query), collection.corpus.text(doc))
        for query, doc in zip(found.query_ids, found.doc_ids, strict=True)
    ]


# Asking


def test_every_pair_is_judged_in_parts_in_order(store):
    (judged,) = judging.judge(BOTH, made(), [Toy()], store)
    assert [PAIRS[:3], PAIRS[3:6], PAIRS[6:]] == ASKED
    assert len(parts(store)) == 3
    assert (judged.teacher, judged.asked, judged.stored, judged.judged) == ("toy", 7, 0, 7)
    np.testing.assert_allclose(judging.read(BOTH, made(), [Toy()], store), [expected(BOTH, made())], rtol=1e-6)


def test_the_second_time_nothing_is_asked(store):
    judging.judge(BOTH, made(), [Toy()], store)
    before = parts(store)
    ASKED.clear()
    (judged,) = judging.judge(BOTH, made(), [Toy()], store)
    assert (ASKED, judged.stored, judged.judged) == ([], 7, 0)
    assert str(judged) == f"toy: all 7 judgements are in the store ({judged.fingerprint})"
    judging.judge(BOTH, made(), [Toy(part=1)], ScoreStore(store.root))
    assert (ASKED, parts(store)) == ([], before)


def test_only_new_pairs_are_asked_when_candidates_grow(store):
    judging.judge(BOTH, made(), [Toy()], store)
    ASKED.clear()
    (judged,) = judging.judge(candidates(q2="d6 d0 d4 d5", q1="d0 d7 d3 d1 d2"), made(), [Toy()], store)
    assert ASKED == [[("q2", "d6"), ("q1", "d7")]]
    assert (judged.asked, judged.stored, judged.judged) == (9, 7, 2)
    assert str(judged).startswith("toy: 2 pairs judged (")
    assert str(judged).endswith(f"/s), 7 were in the store ({judged.fingerprint})")


def test_another_teacher_is_asked_for_itself(store):
    first, second = judging.judge(BOTH, made(), [Toy(), Toy(version=2)], store)
    assert len(ASKED) == 6
    assert first.fingerprint != second.fingerprint
    assert {first.fingerprint, second.fingerprint} == {folder.name for folder in store.root.iterdir()}
    assert judging.read(BOTH, made(), [Toy(), Toy(version=2)], store).shape == (2, 7)
    assert judging.identities(made(), [Toy(), Toy(version=2)]) == [
        {"kind": "toy", "version": 1},
        {"kind": "toy", "version": 2},
    ]


def test_the_same_text_under_another_id_is_a_hit(store):
    judging.judge(BOTH, made(), [Toy()], store)
    ASKED.clear()
    renamed = made(
        {f"x{key}": text for key, text in DOCUMENTS.items()}, {f"y{key}": text for key, text in QUERIES.items()}
    )
    found = candidates(yq1="xd0 xd3", yq2="xtwin")
    (judged,) = judging.judge(found, renamed, [Toy()], store)
    assert (ASKED, judged.stored) == ([], 3)
    np.testing.assert_allclose(judging.read(found, renamed, [Toy()], store), [expected(found, renamed)], rtol=1e-6)


def test_an_edited_document_is_a_miss(store):
    judging.judge(BOTH, made(), [Toy()], store)
    ASKED.clear()
    judging.judge(BOTH, made({**DOCUMENTS, "d0": "text zero"}), [Toy()], store)
    assert ASKED == [[("q1", "d0"), ("q2", "d0")]]


def test_one_text_under_two_ids_is_asked_once(store):
    found = candidates(q1="d0 twin d1", q2="twin")
    judging.judge(found, made(), [Toy()], store)
    assert ASKED == [[("q1", "d0"), ("q1", "d1"), ("q2", "twin")]]
    scores = judging.read(found, made(), [Toy()], store)[0]
    assert scores[0] == scores[1]
    np.testing.assert_allclose(scores, expected(found, made()), rtol=1e-6)


# Killed and resumed


@pytest.mark.parametrize("calls", range(3))
def test_killed_and_resumed_the_store_holds_the_same_bits(store, tmp_path, calls):
    with pytest.raises(KeyboardInterrupt):
        judging.judge(BOTH, made(), [Toy(fail_at=calls)], store)
    assert len(store.table({"kind": "toy", "version": 1})) == 3 * calls
    judging.judge(BOTH, made(), [Toy()], store)
    assert [PAIRS[:3], PAIRS[3:6], PAIRS[6:]] == ASKED  # nothing twice
    whole = ScoreStore(tmp_path / "whole")
    judging.judge(BOTH, made(), [Toy()], whole)
    assert parts(store) == parts(whole)


def test_so_it_is_with_a_real_model(store, tmp_path, collection, tiny_cross_encoder, monkeypatch):
    from retrodistill.teachers.cross_encoder import CrossEncoderJudge

    monkeypatch.setattr(CrossEncoderJudge, "pairs_a_part", 20)
    teacher = CrossEncoder(model=str(tiny_cross_encoder))
    found, _ = mine(collection, "train", [BM25()], depth=5)
    real, calls = CrossEncoderJudge.score, []

    def failing(self, query_ids, doc_ids):
        calls.append(len(query_ids))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, query_ids, doc_ids)

    monkeypatch.setattr(CrossEncoderJudge, "score", failing)
    with pytest.raises(KeyboardInterrupt):
        judging.judge(found, collection, [teacher], store)
    judging.judge(found, collection, [teacher], store)
    whole = ScoreStore(tmp_path / "whole")
    judging.judge(found, collection, [teacher], whole)
    assert len(parts(whole)) > 2
    assert parts(store) == parts(whole)


# What is refused


def test_nan_is_refused_with_the_pair_and_what_was_judged_before_is_kept(store):
    with pytest.raises(InputError) as refused:
        judging.judge(BOTH, made(), [Toy(nan_at=("q2", "d0"))], store)
    assert str(refused.value) == (
        "teacher toy gives nan for query 'q2' and document 'd0'; a judgement must be a finite number. "
        "What was judged before is in the store"
    )
    scores = judging.read(BOTH, made(), [Toy()], store)[0]
    assert np.isnan(scores).tolist() == [False] * 3 + [True] * 4


@pytest.mark.parametrize("teachers", [[Toy()], []])
def test_candidates_of_another_collection_are_refused_before_any_work(store, teachers):
    for ask in (judging.judge, judging.read):
        with pytest.raises(InputError) as refused:
            ask(candidates(q1="d0 stranger other"), made(), teachers, store)
        assert str(refused.value).startswith("2 documents of the candidates are not in toy, such as 'stranger'")
        with pytest.raises(InputError, match="1 queries of the candidates are not in toy, such as 'q9'"):
            ask(candidates(q9="d0"), made(), teachers, store)
    assert ASKED == []
    assert not store.root.exists()


# Reading


def test_what_was_never_judged_is_nan(store):
    judging.judge(candidates(q1="d0 d1"), made(), [Toy()], store)
    scores = judging.read(candidates(q1="d1 d5 d0"), made(), [Toy(), Toy(version=2)], store)
    assert (scores.shape, scores.dtype) == ((2, 3), np.float32)
    assert np.isnan(scores).tolist() == [[False, True, False], [True, True, True]]
    assert scores[0, 2] == pytest.approx(value("first", "text 0"))


def test_no_teachers_no_rows(store):
    assert judging.read(BOTH, made(), [], store).shape == (0, 7)
    assert judging.judge(BOTH, made(), [], store) == []


# Retrievers as teachers


def test_retrievers_teach_what_they_search(store, collection, tiny_model):
    teachers = [BM25(), Dense(model=str(tiny_model))]
    found, _ = mine(collection, "train", [*teachers, Random()], depth=8)
    judging.judge(found, collection, teachers, store)
    scores = judging.read(found, collection, teachers, store)
    assert not np.isnan(scores).any()
    for teacher, row in zip(teachers, scores, strict=True):
        run = teacher.open(collection).search(found.queries, 1000)
        searched = [run[query].get(doc, 0.0) for query, doc in zip(found.query_ids, found.doc_ids, strict=True)]
        np.testing.assert_allclose(row, searched, atol=1e-5)
