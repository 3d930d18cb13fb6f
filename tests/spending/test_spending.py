"""A budget of judgements: never more than asked, never twice, and where each rule says it should go."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_models import Longer, Spelling

from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.scores.store import ScoreStore
from retrodistill.spending import Known, Units, spend, usual_rule
from retrodistill.teachers import judging, ordering
from retrodistill.teachers.teacher import Teacher

QUERIES, DEPTH = 6, 20


class Truth(Teacher):
    """Knows what is relevant: document n of query q is worth a number that its text tells."""

    kind: Literal["truth"] = "truth"
    fails_at: str = ""

    def open(self, collection):
        return Judge(self, collection)


class Judge:
    pairs_a_part = 7
    may_fail = True
    asked: list[tuple[str, str]] = []  # noqa: RUF012 - shared, and emptied by the fixture

    def __init__(self, options, collection):
        self.options, self.collection = options, collection
        self.identity: dict[str, Any] = {"kind": "truth"}

    def query_text(self, query_id):
        return self.collection.queries.text(query_id)

    def document_text(self, doc_id):
        return self.collection.corpus.text(doc_id)

    def score(self, query_ids, doc_ids):
        pairs = list(zip(query_ids, doc_ids, strict=True))
        Judge.asked += pairs
        values = [float(self.document_text(doc).split()[-1]) for _, doc in pairs]
        return np.array(
            [np.nan if doc == self.options.fails_at else v for (_, doc), v in zip(pairs, values, strict=True)],
            dtype=np.float32,
        )


@pytest.fixture
def world(tmp_path):
    """Ranks tell something of worth, not all; one document a query is labelled, the best."""
    Judge.asked.clear()
    generator = np.random.default_rng(0)
    texts, rows = [], {}
    for q in range(QUERIES):
        worth = -np.arange(DEPTH) / 4 + generator.normal(size=DEPTH)
        best = int(worth.argmax())
        texts += [(f"d{q}.{n}", "", f"worth {worth[n]:.4f}") for n in range(DEPTH)]
        rows[f"q{q}"] = [(f"d{q}.{n}", "bm25", n + 1, 0.0, 1 if n == best else None) for n in range(DEPTH)]
    queries = Texts.queries("c", [(f"q{q}", f"query {q}") for q in range(QUERIES)])
    return Collection("c", Texts.documents("c", texts), queries, {}), Candidates.of(rows), ScoreStore(tmp_path)


def rule(kind, **options):
    return build("spending", {"kind": kind, **options})


RULES = ["random", "coverage", "uncertainty", "disagreement"]


@pytest.mark.parametrize("kind", RULES)
def test_no_more_is_asked_than_the_budget_and_nothing_twice(kind, world):
    collection, candidates, store = world
    told = list(spend(rule(kind), 43, Truth(), candidates, collection, store))
    assert len(Judge.asked) == 43 == len(set(Judge.asked))
    assert told[-1].judged == 43 and told[-1].candidates == QUERIES * DEPTH
    assert [each.judged for each in told] == sorted(each.judged for each in told)
    list(spend(rule(kind), 43, Truth(), candidates, collection, store))
    assert len(Judge.asked) == 43
    told = list(spend(rule(kind), 1000, Truth(), candidates, collection, store))
    assert told[-1].judged == QUERIES * DEPTH == len(set(Judge.asked)) == len(Judge.asked)


@pytest.mark.parametrize("kind", RULES)
def test_what_is_chosen_depends_on_the_seed_alone(kind, world, tmp_path):
    collection, candidates, _ = world
    chosen = []
    for number, seed in enumerate((3, 3, 4)):
        Judge.asked.clear()
        list(spend(rule(kind), 30, Truth(), candidates, collection, ScoreStore(tmp_path / str(number)), seed=seed))
        chosen.append(list(Judge.asked))
    assert chosen[0] == chosen[1]
    assert kind != "random" or chosen[2] != chosen[0]


def test_all_judged_is_the_teachers_own_order(world):
    collection, candidates, store = world
    told = list(spend(rule("random"), QUERIES * DEPTH, Truth(), candidates, collection, store))
    assert told[-1].ndcg == pytest.approx(1.0)  # the labelled document of each query is its best
    assert told[0].ndcg < 1


def test_coverage_takes_the_first_of_each_query_before_the_second_of_any(world):
    collection, candidates, store = world
    list(spend(rule("coverage"), QUERIES * 3, Truth(), candidates, collection, store))
    assert set(Judge.asked) == {(f"q{q}", f"d{q}.{n}") for q in range(QUERIES) for n in range(3)}


def test_uncertainty_is_greatest_at_the_edge_of_the_top():
    expected = np.linspace(1, -1, 30)
    known = Known(np.arange(1, 31), np.array([0, 30]), np.full(30, np.nan), expected[None])
    worth = rule("uncertainty", top=10).worth(known, np.random.default_rng(0))
    assert set(np.argsort(-worth)[:4]) == {8, 9, 10, 11}
    assert worth[0] < worth[9] > worth[29]


def test_disagreement_is_greatest_where_one_has_high_what_another_has_low():
    first = -np.arange(20.0)
    other = first.copy()
    other[[0, 19]] = other[[19, 0]]
    known = Known(np.arange(1, 21), np.array([0, 20]), np.full(20, np.nan), np.stack([first, other]))
    worth = rule("disagreement").worth(known, np.random.default_rng(0))
    assert set(np.argsort(-worth)[:2]) == {0, 19}
    assert worth[1:19].max() < worth[[0, 19]].min() / 2


def test_a_regression_on_hints_stands_for_what_was_not_judged():
    hints = np.stack([np.linspace(2, -2, 40), np.cos(np.arange(40.0))])
    truth = 3 * hints[0] + 2 * hints[1] + 5
    judged = np.where(np.arange(40) % 2 == 0, truth, np.nan)
    known = Known(np.arange(1, 41), np.array([0, 40]), judged, hints)
    expected, wrong = known.expected
    np.testing.assert_allclose(expected, truth, atol=0.1)
    assert (wrong < 0.1).all() and (wrong[::2] == 0).all()


def test_what_fails_costs_and_is_not_asked_again_for_this_money(world):
    collection, candidates, store = world
    told = list(spend(rule("coverage"), QUERIES * 2, Truth(fails_at="d0.0"), candidates, collection, store))
    assert len(Judge.asked) == QUERIES * 2 == len(set(Judge.asked))
    assert sum(each.failed for each in told) == 1 and told[-1].judged == QUERIES * 2 - 1


def test_hints_are_judged_in_full_and_looked_at(world):
    collection, candidates, store = world
    list(spend(rule("uncertainty"), 10, Truth(), candidates, collection, store, hints=[build("teacher", "bm25")]))
    assert not np.isnan(judging.read(candidates, collection, [build("teacher", "bm25")], store)).any()
    assert int((~np.isnan(judging.read(candidates, collection, [Truth()], store))).sum()) == 10


# Pairs and windows: d0 is the best of each query, and so on down; the teachers are asked in the toys' own tables

BY_LENGTH = {"kind": "toy_models:ByLength"}
ALPHABET = {"kind": "toy_models:Alphabet", "window": 3, "stride": 2}


@pytest.fixture
def lists(tmp_path):
    """Three queries of seven documents; the sources have them backwards, and the last is labelled."""
    Longer.asked.clear()
    Spelling.asked.clear()
    texts = [(f"{q}{n}", "", "x" * (30 - 4 * n)) for q in "abc" for n in range(7)]
    rows = {
        f"q{q}": [(f"{q}{n}", "bm25", 7 - n, 0.0, 1 if n == 0 else None) for n in reversed(range(7))] for q in "abc"
    }
    queries = Texts.queries("c", [(f"q{q}", f"query {q}") for q in "abc"])
    return Collection("c", Texts.documents("c", texts), queries, {}), Candidates.of(rows), ScoreStore(tmp_path)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize(("teacher", "judge"), [(BY_LENGTH, Longer), (ALPHABET, Spelling)])
def test_every_form_keeps_to_its_budget_and_asks_nothing_twice(kind, teacher, judge, lists):
    collection, candidates, store = lists
    part = build("teacher", teacher)
    *_, last = spend(rule(kind), 7, part, candidates, collection, store)
    bought = len(judge.asked)
    assert 0 < bought <= 7 and last.judgements == bought == len({*map(tuple, judge.asked)})
    assert bought >= 6  # what is over does not pay for both orders, or for a pass
    *_, last = spend(rule(kind), bought, part, candidates, collection, ScoreStore(store.root))
    assert len(judge.asked) == bought == last.judgements
    *_, last = spend(rule(kind), 10_000, part, candidates, collection, store)
    assert last.judged == last.candidates and last.ndcg == pytest.approx(1.0)
    assert len(judge.asked) == len({*map(tuple, judge.asked)})
    found = judging.read(candidates, collection, [part], store)[0].reshape(3, 7)
    assert (found.argmax(axis=1) == 6).all()  # the labelled one, which the sources had last


def test_a_comparison_bought_is_read_as_any_other(lists):
    collection, candidates, store = lists
    list(spend(rule("coverage"), 6, build("teacher", BY_LENGTH), candidates, collection, store))
    assert {frozenset(docs) for _, *docs in Longer.asked} == {frozenset({f"{q}6", f"{q}5"}) for q in "abc"}
    found = judging.read(candidates, collection, [build("teacher", BY_LENGTH)], store)[0].reshape(3, 7)
    assert (found[:, 1] > found[:, 0]).all() and np.isnan(found[:, 2:]).all()
    assert not judging.count(build("teacher", {**BY_LENGTH, "pairs": "sort"}), candidates, collection, store)[1] > 6


def test_windows_at_the_top_come_first_and_are_read_as_deep_as_they_go(lists):
    collection, candidates, store = lists
    *_, last = spend(rule("coverage"), 3, build("teacher", ALPHABET), candidates, collection, store)
    assert [docs for _, docs in Spelling.asked] == [(f"{q}6", f"{q}5", f"{q}4") for q in "abc"]
    assert (last.judged, last.judgements) == (9, 3) and str(last).startswith("3 windows, 9 of 21 judged, nDCG@10")
    found = judging.read(candidates, collection, [build("teacher", ALPHABET)], store)[0].reshape(3, 7)
    np.testing.assert_allclose(found[:, :3], [[0, 0.5, 1]] * 3)
    assert np.isnan(found[:, 3:]).all()
    assert ordering.paid(build("teacher", ALPHABET), candidates, collection, store) == 3


def test_depths_are_one_window_apart():
    teacher = build("teacher", ALPHABET)
    assert [teacher.depths(count) for count in (0, 1, 2, 3, 4, 7)] == [[], [], [2], [3], [3, 4], [3, 5, 7]]
    assert teacher.judgements(7) == 3 and build("teacher", {**ALPHABET, "runs": 2}).judgements(7) == 6


def test_what_fails_costs_in_every_form(lists):
    collection, candidates, store = lists
    for teacher, judge in (({**BY_LENGTH, "fails_at": "a6"}, Longer), ({**ALPHABET, "fails_at": "a6"}, Spelling)):
        list(spend(rule("coverage"), 9, build("teacher", teacher), candidates, collection, store))
        assert len(judge.asked) <= 9 and len(judge.asked) == len({*map(tuple, judge.asked)})


def test_uncertain_pairs_are_close_ones_near_the_top():
    pairs = np.array([(i, j) for i in range(8) for j in range(i + 1, 8)])
    units = Units(pairs.ravel(), 2 * np.arange(len(pairs) + 1), np.full(len(pairs), 2))
    hints = np.array([[9.0, 6.0, 5.9, 3.0, 0.0, -3.0, -6.0, -6.1]])
    nothing = np.full(8, np.nan)
    known = Known(np.arange(1, 9), np.array([0, 8]), nothing, hints, nothing, units)
    worth = rule("uncertainty", top=3).worth(known, np.random.default_rng(0))
    assert pairs[worth.argmax()].tolist() == [1, 2]  # 6 and 7 are as close, and matter to nobody


def test_few_comparisons_are_believed_less_than_many():
    hints = np.linspace(1, -1, 40)[None]
    judged, errors = -3 * hints[0], np.full(40, 1e-3)
    judged[0], errors[0] = 50.0, 30.0
    judged[1], errors[1] = 50.0, 1e-3
    known = Known(np.arange(1, 41), np.array([0, 40]), judged, hints, errors)
    expected, wrong = known.expected
    assert expected[0] < 20 < 49 < expected[1]
    assert wrong[1] < wrong[0] < 30


def test_a_sort_leaves_a_rule_nothing_to_choose(lists):
    collection, candidates, store = lists
    with pytest.raises(InputError, match=r"pairs: sort asks what a sort needs.*use pairs: all"):
        list(spend(rule("random"), 10, build("teacher", {**BY_LENGTH, "pairs": "sort"}), candidates, collection, store))


def test_a_rule_that_nobody_named_goes_by_what_is_bought():
    named = [usual_rule(build("teacher", teacher)).kind for teacher in ("bm25", BY_LENGTH, ALPHABET)]
    assert named == ["coverage", "uncertainty", "uncertainty"]


def test_the_gain_of_a_slice_is_told(world):
    collection, candidates, store = world
    first, second, *_ = spend(rule("coverage"), 60, Truth(), candidates, collection, store)
    assert first.gain is None and "thousand" not in str(first)
    assert second.gain == pytest.approx(1000 * (second.ndcg - first.ndcg) / 12)
    assert f"nDCG@10 {second.ndcg:.4f} ({second.gain:+.4f} a thousand pairs)" in str(second)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(RULES), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_any_state_gives_every_row_a_finite_worth(seed, kind, lengths):
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    count = int(offsets[-1])
    judged = np.where(generator.random(count) < 0.5, generator.normal(size=count), np.nan)
    hints = np.where(generator.random((2, count)) < 0.8, generator.normal(size=(2, count)), np.nan)
    known = Known(generator.integers(0, 50, count), offsets, judged, hints)
    worth = rule(kind).worth(known, generator)
    assert worth.shape == (count,) and np.isfinite(worth).all()


def synthetic(seed, share):
    """60 queries of 40: hints tell half of the worth, queries differ in level, and what is relevant is worth most."""
    generator = np.random.default_rng(seed)
    worth = generator.normal(size=(60, 40))
    hint = worth + generator.normal(size=worth.shape)
    teacher = worth + 0.5 * generator.normal(size=worth.shape) + 2 * generator.normal(size=(60, 1))
    judged = np.where(generator.random(worth.shape) < share, teacher, np.nan)
    known = Known(np.ones(2400, dtype=int), np.arange(61) * 40, judged.ravel(), hint.reshape(1, -1))
    return worth, hint, teacher, known


def found_among_ten(worth, scores):
    """The share of the queries' best documents that stand among the first ten, the higher the more: nDCG@10."""
    best, order = worth.argmax(axis=1), np.argsort(-scores.reshape(worth.shape), axis=1)
    places = (order == best[:, None]).argmax(axis=1)
    return np.where(places < 10, 1 / np.log2(places + 2), 0).mean()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9])
def test_what_chance_has_judged_is_no_worse_than_nothing(share):
    gains = []
    for seed in range(20):
        worth, hint, _, known = synthetic(seed, share)
        gains.append(found_among_ten(worth, known.merged) - found_among_ten(worth, hint))
    assert np.mean(gains) > -0.5 * np.std(gains) / np.sqrt(len(gains))
    assert share < 0.3 or np.mean(gains) > 0.02


def test_all_judged_is_ranked_as_judged():
    _, _, teacher, known = synthetic(0, 1)
    np.testing.assert_allclose(known.merged, teacher.ravel())


def test_a_query_whose_documents_are_all_liked_less_has_a_level_of_its_own():
    generator = np.random.default_rng(0)
    hints, levels = generator.normal(size=(1, 200)), np.repeat([-9.0, 0.0, 4.0, 30.0], 50)
    judged = np.where(generator.random(200) < 0.5, hints[0] + levels, np.nan)
    expected, _ = Known(np.ones(200, dtype=int), np.arange(5) * 50, judged, hints).expected
    np.testing.assert_allclose(expected, hints[0] + levels, atol=0.2)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_what_was_judged_at_the_top_does_not_turn_the_rest_upside_down(first):
    generator = np.random.default_rng(0)
    ranks = np.tile(np.arange(1, 21), 100)
    bm25 = np.sort(generator.gumbel(size=(100, 20)), axis=1)[:, ::-1].ravel()
    teacher = bm25 + generator.normal(size=2000) + np.repeat(generator.normal(size=100), 20)
    judged = np.where(ranks <= first, teacher, np.nan)
    known = Known(ranks, np.arange(101) * 20, judged, np.stack([-np.log(ranks), bm25]))
    rest = known.merged.reshape(100, 20)[:, first:]
    assert (np.diff(rest, axis=1) <= 0).all()
    assert known.expected[1].max() > 0.1  # one judgement a query is no proof of a perfect fit
