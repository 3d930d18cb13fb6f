"""Judgements of pairs and of lists: what is asked, kept, asked again after a crash, and read."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from toy_models import Alphabet, ByLength, Longer, Spelling

from retrodistill import steps
from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.language.model import Prompt
from retrodistill.scores.bradley_terry import bradley_terry, win_rate
from retrodistill.scores.orders import Order
from retrodistill.scores.store import ScoreStore
from retrodistill.sections import Score
from retrodistill.teachers import comparing, judging
from retrodistill.teachers.contests import Listwise

DOCS = {"a": "x" * 9, "b": "x" * 2, "c": "x" * 5, "d": "x" * 7, "e": "x"}


@pytest.fixture
def collection():
    corpus = Texts.documents("c", [(doc, "", text) for doc, text in DOCS.items()])
    return Collection("c", corpus, Texts.queries("c", [("q", "what?"), ("r", "who?")]), {})


@pytest.fixture
def candidates():
    def rows(docs):
        return [(doc, "bm25", rank, 0.0, None) for rank, doc in enumerate(docs, start=1)]

    return Candidates.of({"q": rows("edcba"), "r": rows("ab")})


@pytest.fixture
def store(tmp_path):
    Longer.asked, Spelling.asked = [], []
    return ScoreStore(tmp_path / "scores")


def probability(a, b):
    """Both orders' logits, averaged: the liking for the first cancels out."""
    return 1 / (1 + np.exp(-0.1 * (len(DOCS[a]) - len(DOCS[b]))))


# Pairs


def test_all_pairs_are_asked_once_in_both_orders(collection, candidates, store):
    teacher = ByLength()
    (told,) = judging.judge(candidates, collection, [teacher], store)
    assert (told.asked, told.judged, told.stored, told.unit) == (22, 22, 0, "comparisons")
    assert len(set(Longer.asked)) == len(Longer.asked) == 22
    assert {("q", "a", "b"), ("q", "b", "a"), ("r", "a", "b")} <= set(Longer.asked)
    (told,) = judging.judge(candidates, collection, [ByLength(read="win_rate")], store)
    assert (told.judged, told.stored) == (0, 22)
    assert len(Longer.asked) == 22
    assert store.verify() == []


@pytest.mark.parametrize("read", ["bradley_terry", "win_rate"])
def test_reading_is_of_the_probabilities_of_both_orders(collection, candidates, store, read):
    teacher = ByLength(read=read)
    judging.judge(candidates, collection, [teacher], store)
    found = judging.read(candidates, collection, [teacher], store)[0]
    wins = np.array([[probability(a, b) if a != b else np.nan for b in "edcba"] for a in "edcba"])
    expected = bradley_terry(wins)[0] if read == "bradley_terry" else win_rate(wins)
    np.testing.assert_allclose(found[:5], expected, atol=1e-5)
    assert found[5] > found[6]
    errors = judging.errors(candidates, collection, [teacher], store)[0]
    wanted = bradley_terry(wins)[1] if read == "bradley_terry" else np.full(5, np.nan)
    np.testing.assert_allclose(errors[:5], wanted, atol=1e-5)
    first = next(comparing.preferences(teacher, candidates, collection, store))
    np.testing.assert_allclose(first, wins, atol=1e-6)


def test_a_budget_of_pairs_is_drawn_evenly_and_the_same_again():
    teacher = ByLength(pairs=12)
    chosen = teacher.chosen("q", 12)
    assert len(chosen) == 12 == len(set(chosen))
    assert chosen == teacher.chosen("q", 12) != ByLength(pairs=12, seed=1).chosen("q", 12)
    assert np.bincount(np.array(chosen).ravel(), minlength=12).tolist() == [2] * 12
    assert all(i < j for i, j in chosen)
    assert len(teacher.chosen("q", 4)) == 6  # all there are
    assert teacher.chosen("q", 1) == []


def test_sorting_asks_as_merge_sort_does_and_finds_the_order(collection, candidates, store):
    teacher = ByLength(pairs="sort")
    (told,) = judging.judge(candidates, collection, [teacher], store)
    # e d | c b | a: e-d, c-b; d-c, e-c, e-b; d-a, (c|b|e)-a ... each in both orders
    asked = [tuple(row[1:]) for row in Longer.asked if row[0] == "q"]
    assert {("e", "d"), ("d", "e"), ("c", "b"), ("b", "c")} == set(asked[:4])
    assert told.judged == len(asked) + 2 < 22 and len(set(asked)) == len(asked)
    found = judging.read(candidates, collection, [teacher], store)[0]
    assert [d for _, d in sorted(zip(-found[:5], "edcba", strict=True))] == sorted(DOCS, key=lambda d: -len(DOCS[d]))
    (told,) = judging.judge(candidates, collection, [teacher], store)
    assert told.judged == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 33])
def test_a_sort_compares_n_log_n_times_and_all_neighbours(count):
    generator = np.random.default_rng(count)
    worth = generator.permutation(count)
    asking = ByLength(pairs="sort").asking("q", np.arange(1, count + 1))
    asked: list[tuple[int, int]] = []
    pairs = next(asking, None)
    while pairs is not None:
        asked += pairs
        try:
            pairs = asking.send([float(worth[i] > worth[j]) for i, j in pairs])
        except StopIteration:
            break
    assert len(set(asked)) == len(asked) <= count * np.ceil(np.log2(max(count, 1)))
    assert all(i < j for i, j in asked)
    order = np.argsort(-worth)
    assert {(min(a, b), max(a, b)) for a, b in pairwise(order)} <= set(asked)


def test_what_failed_is_listed_and_asked_again(collection, candidates, store):
    (told,) = judging.judge(candidates, collection, [ByLength(fails_at="c")], store)
    assert told.judged == 14 and len(told.failed) == 8
    assert "8 FAILED and are asked again next time: q / d / c" in str(told) or "q / " in str(told)
    found = judging.read(candidates, collection, [ByLength()], store)[0]
    assert np.isnan(found[2]) and not np.isnan(np.delete(found, 2)).any()
    Longer.asked = []
    (told,) = judging.judge(candidates, collection, [ByLength()], store)
    assert told.judged == 8 == len(Longer.asked) and not told.failed


def test_a_killed_run_pays_no_comparison_twice(collection, candidates, store, monkeypatch):
    whole = Longer.prefer

    def killed(self, *rows):
        if len(Longer.asked) >= 9:
            raise KeyboardInterrupt
        return whole(self, *rows)

    monkeypatch.setattr(Longer, "prefer", killed)
    with pytest.raises(KeyboardInterrupt):
        judging.judge(candidates, collection, [ByLength()], store)
    monkeypatch.setattr(Longer, "prefer", whole)
    judging.judge(candidates, collection, [ByLength()], ScoreStore(store.root))
    assert len(Longer.asked) == 22 == len(set(Longer.asked))


# Lists


def test_windows_slide_from_the_back_and_bring_the_best_to_the_front(collection, candidates, store):
    teacher = Alphabet(window=3, stride=2)
    (told,) = judging.judge(candidates, collection, [teacher], store)
    shown = ["".join(docs) for query, docs in Spelling.asked if query == "q"]
    assert shown == ["cba", "eda"]  # c b a becomes a b c; then e d a
    assert (told.judged, told.unit) == (3, "windows")
    found = judging.read(candidates, collection, [teacher], store)[0]
    assert [d for _, d in sorted(zip(-found[:5], "edcba", strict=True))] == list("adebc")
    np.testing.assert_allclose(sorted(found[:5]), [0, 0.25, 0.5, 0.75, 1])


def test_every_document_is_shown_and_windows_are_as_many_as_was_said():
    """Those of a stride as wide as a window too, behind which one document is left."""
    for window in range(2, 6):
        for stride in range(1, window + 1):
            teacher = Alphabet(window=window, stride=stride)
            for count in range(2, 20):
                docs = [chr(ord("a") + place) for place in reversed(range(count))]
                shown, sliding = [], teacher.slide("q", docs, range(count))
                asked = next(sliding)
                try:
                    while True:
                        shown.append(asked.doc_ids)
                        ranking = sorted(range(len(shown[-1])), key=lambda place: shown[-1][place])
                        asked = sliding.send(Order(tuple(ranking), None, "said", 0))
                except StopIteration as end:
                    assert docs[end.value[0]] == "a" or window == stride  # windows that overlap carry the best along
                assert set().union(*shown) == set(docs)
                assert len(shown) == teacher.judgements(count) and max(map(len, shown)) <= window


def test_stored_windows_are_replayed_and_not_asked_again(collection, candidates, store):
    judging.judge(candidates, collection, [Alphabet(window=3, stride=2)], store)
    count = len(Spelling.asked)
    (told,) = judging.judge(candidates, collection, [Alphabet(window=3, stride=2, read="expected_rank")], store)
    assert (told.judged, told.stored, len(Spelling.asked)) == (0, 3, count)
    assert store.verify() == []


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        ("borda", [1, 0.75, 0.5, 0.25, 0]),
        ("reciprocal_rank", [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]),
        ("expected_rank", [-1, -2, -3, -4, -5]),
    ],
)
def test_one_window_over_all_is_read_as_asked(collection, candidates, store, read, expected):
    teacher = Alphabet(window=5, stride=5, runs=3, read=read)
    judging.judge(candidates, collection, [teacher], store)
    found = judging.read(candidates, collection, [teacher], store)[0]
    np.testing.assert_allclose(found[:5][::-1], expected, rtol=1e-6)  # the candidates are e d c b a
    assert len({docs for query, docs in Spelling.asked if query == "q"}) == 3  # three runs, three first orders


def test_a_window_without_an_order_leaves_its_query_out_until_it_has_one(collection, candidates, store):
    teacher = Alphabet(window=3, stride=2, fails_at="c")
    (told,) = judging.judge(candidates, collection, [teacher], store)
    assert told.failed == ("q",)
    found = judging.read(candidates, collection, [teacher], store)[0]
    assert np.isnan(found[:5]).all() and not np.isnan(found[5:]).any()
    judging.judge(candidates, collection, [Alphabet(window=3, stride=2)], store)
    assert not np.isnan(judging.read(candidates, collection, [teacher], store)).any()


def test_answers_that_need_too_much_repair_stop_the_run_and_are_kept(collection, store):
    rows = [(doc, "bm25", rank, 0.0, None) for rank, doc in enumerate("edcba", start=1)]
    queries = [(f"q{n}", f"what {n}?") for n in range(30)]
    many = Collection("c", collection.corpus, Texts.queries("c", queries), {})
    teacher = Alphabet(mumbles=True, window=5, stride=5, repair_limit=0.2)
    with pytest.raises(InputError, match=r"20 of 20 answers named documents .* repair_limit: 0\.2"):
        judging.judge(Candidates.of({query: rows for query, _ in queries}), many, [teacher], store)
    known = store.orders(teacher.open(many).identity)
    assert len(known) == 20
    assert known.find("what 0?", [DOCS[doc] for doc in "edcba"]).answer == "said"


def test_few_answers_and_stored_ones_are_held_to_the_limit_too(collection, candidates, store):
    teacher = Alphabet(mumbles=True, window=5, stride=5, repair_limit=0.2)
    for _ in range(2):  # the second time nothing is asked
        with pytest.raises(InputError, match="answers named documents"):
            judging.judge(candidates, collection, [teacher], store)
    judging.judge(candidates, collection, [teacher.model_copy(update={"repair_limit": 1.0})], store)


def test_a_damaged_part_of_orders_is_named_and_left_out(collection, candidates, store, capsys):
    teacher = Alphabet(window=5, stride=5)
    judging.judge(candidates, collection, [teacher], store)
    part = next(store.root.glob("*/orders-*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    (named,) = store.verify()
    assert str(part) in named and "its bytes are not those that were written" in named
    assert np.isnan(judging.read(candidates, collection, [teacher], ScoreStore(store.root))).all()
    judging.judge(candidates, collection, [teacher], ScoreStore(store.root))
    assert not np.isnan(judging.read(candidates, collection, [teacher], ScoreStore(store.root))).any()


def test_windows_that_leave_documents_between_them_are_refused():
    with pytest.raises(ValueError, match="leaves documents between windows"):
        Alphabet(window=3, stride=4)


def test_a_window_is_asked_for_alike_whatever_stands_beside_it():
    """Else a server would be paid again for what a killed run had asked."""
    asked = []
    model = SimpleNamespace(generate=lambda prompts, max_tokens: asked.append(max_tokens) or [None] * len(prompts))
    teacher = Listwise(model={"kind": "openai", "model": "m", "url": "http://a"}, window=7, stride=3)
    for counts in ([7, 7], [2], [2, 7]):
        teacher.orders(SimpleNamespace(model=model), [Prompt("which?")] * len(counts), counts)
    assert asked == [56, 56, 56]


def test_a_pair_counts_once_both_orders_are_judged(collection, candidates, store):
    teacher = ByLength()
    judge = teacher.open(collection)
    seen = []
    for shown, logit in ((("q", "e", "d"), 3.0), (("q", "d", "e"), -1.0)):
        queries, documents = comparing._keys(judge, [shown])
        store.table(judge.identity).append(queries, documents, np.array([logit], dtype=np.float32))
        seen.append(next(comparing.preferences(teacher, candidates, collection, store))[0, 1])
    assert np.isnan(seen[0])
    assert seen[1] == pytest.approx(1 / (1 + np.exp(-2)))


def test_a_teacher_that_fails_at_everything_is_an_error_and_one_that_fails_at_some_is_told(
    collection, candidates, store
):
    section, said = Score.model_construct(teachers=(Alphabet(window=5, stride=5, fails_at="c"),), budget=None), []
    with pytest.raises(InputError, match="alphabet failed at all 1 windows"):
        steps.score(section, candidates.select(["q"]), collection, store, 0, said.append)
    steps.score(section, candidates, collection, store, 0, said.append)
    assert "1 FAILED" in said[-1]
