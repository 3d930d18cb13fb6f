import math

import numpy as np
import pytest
from ir_measures import nDCG
from pydantic import ValidationError

from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.scores.combine import Groups, Mean
from retrodistill.scores.learnt import Lists
from retrodistill.scores.reinforced import Policy, Reinforced, ndcg, subsets
from retrodistill.scores.traits import TRAITS, traits

NAN = float("nan")
DOCUMENTS = 12


def experts(queries: int, seed: int = 0, apart: bool = True) -> Lists:
    """Two teachers, each with a document far ahead of the others: the relevant one for the queries it knows.

    Where it does not know, its raw scores are narrow (if `apart`), which its z-scores do not show.
    """
    random = np.random.default_rng(seed)
    knows = random.random(queries) < 0.5
    grades = np.full((queries, DOCUMENTS), NAN)
    relevant, other = random.integers(0, DOCUMENTS, (2, queries))
    row = np.arange(queries)
    grades[row, relevant] = 1
    scores = random.normal(size=(2, queries, DOCUMENTS))
    for teacher, known in enumerate((knows, ~knows)):
        scores[teacher, row, np.where(known, relevant, other)] += 6
        if apart:
            scores[teacher, ~known] *= 0.3
    names = [f"query {seed} {number}" for number in range(queries)]
    return Lists(scores.reshape(2, -1), np.arange(queries + 1) * DOCUMENTS, grades.ravel(), names)


def worth(lists: Lists, scores: np.ndarray) -> float:
    gains = np.nan_to_num(lists.grades)
    return float(ndcg(scores.astype(np.float64), gains, Groups(lists.offsets), 10).mean())


def mean_of(lists: Lists) -> np.ndarray:
    return Mean()(lists.scores, lists.offsets)


# Learning


def test_it_finds_which_teacher_knows():
    lists = experts(200)
    assert worth(lists, Reinforced().cross_fitted(lists)) > worth(lists, mean_of(lists)) + 0.1
    held_out = experts(200, seed=1)
    learnt = Reinforced().learnt(lists)
    assert worth(held_out, learnt(held_out.scores, held_out.offsets)) > worth(held_out, mean_of(held_out)) + 0.1
    chosen = Reinforced(select=True).learnt(lists)
    assert worth(held_out, chosen(held_out.scores, held_out.offsets)) > 0.97


def test_where_nothing_tells_the_teachers_apart_it_is_near_the_mean():
    lists, held_out = experts(300, apart=False), experts(300, seed=1, apart=False)
    learnt = Reinforced().learnt(lists)
    assert worth(held_out, learnt(held_out.scores, held_out.offsets)) > worth(held_out, mean_of(held_out)) - 0.02


def test_without_anything_to_gain_it_is_the_mean():
    lists = experts(50)
    same = Lists(np.stack([lists.scores[0]] * 3), lists.offsets, lists.grades, lists.queries)
    np.testing.assert_allclose(Reinforced().cross_fitted(same), mean_of(same), rtol=1e-5, atol=1e-6)
    strict = Reinforced(penalty=1e9).cross_fitted(lists)
    np.testing.assert_allclose(strict, mean_of(lists), atol=1e-5)
    np.testing.assert_allclose(
        Reinforced(penalty=1e9).learnt(same)(same.scores, same.offsets), mean_of(same), atol=1e-5
    )


def test_of_a_querys_own_labels_nothing_goes_into_its_scores():
    lists = experts(60)
    plain = Reinforced(folds=3).cross_fitted(lists)
    grades = lists.grades.reshape(60, -1).copy()
    grades[17] = np.roll(grades[17], 3)
    changed = Reinforced(folds=3).cross_fitted(Lists(lists.scores, lists.offsets, grades.ravel(), lists.queries))
    own = slice(17 * DOCUMENTS, 18 * DOCUMENTS)
    np.testing.assert_array_equal(changed[own], plain[own])
    assert (changed != plain).any()  # the other folds have learnt from it


def test_a_scale_of_all_queries_is_that_of_all_folds():
    lists = experts(40)
    alike = Reinforced(normalise="teacher_zscore", penalty=1e9).cross_fitted(lists)
    np.testing.assert_allclose(alike, Mean(normalise="teacher_zscore")(lists.scores, lists.offsets), atol=1e-5)


def test_queries_of_one_text_are_in_one_fold():
    lists = experts(40)
    twins = Lists(lists.scores, lists.offsets, lists.grades, [f"Query  {n // 2}".swapcase() for n in range(40)])
    fold = Reinforced()._dealt(twins)
    assert (fold[::2] == fold[1::2]).all() and set(fold) == set(range(5))
    assert np.bincount(fold).tolist() == [8] * 5
    assert (Reinforced(seed=1)._dealt(twins) != fold).any()


def test_unlabelled_queries_are_combined_too():
    lists = experts(60)
    grades = lists.grades.reshape(60, -1).copy()
    grades[:20] = NAN
    some = Lists(lists.scores, lists.offsets, grades.ravel(), lists.queries)
    found = Reinforced().cross_fitted(some)
    assert not np.isnan(found).any()
    assert worth(lists, found) > worth(lists, mean_of(lists)) + 0.05


def test_seeds():
    lists = experts(60)
    first = Reinforced(seed=3).cross_fitted(lists)
    np.testing.assert_array_equal(Reinforced(seed=3).cross_fitted(lists), first)
    assert (Reinforced(seed=4).cross_fitted(lists) != first).any()


# Invariances


def test_order_of_rows_queries_and_teachers_does_not_matter():
    lists, random = experts(30), np.random.default_rng(5)
    lists.scores[random.random(lists.scores.shape) < 0.2] = NAN
    found = Reinforced().cross_fitted(lists)
    queries = random.permutation(30)
    rows = np.concatenate([query * DOCUMENTS + random.permutation(DOCUMENTS) for query in queries])
    moved = Lists(lists.scores[::-1, rows], lists.offsets, lists.grades[rows], [lists.queries[q] for q in queries])
    np.testing.assert_allclose(Reinforced().cross_fitted(moved), found[rows], atol=1e-4)


def test_a_teachers_unit_does_not_matter():
    lists = experts(40)
    other = Lists(lists.scores * [[100], [0.01]] + [[7], [-3]], lists.offsets, lists.grades, lists.queries)
    np.testing.assert_allclose(Reinforced().cross_fitted(other), Reinforced().cross_fitted(lists), atol=1e-4)


def test_queries_without_rows_and_teachers_without_scores():
    lists = experts(30)
    lists.scores[1, : 10 * DOCUMENTS] = NAN
    lists.scores[:, :5] = NAN
    found = Reinforced().cross_fitted(lists)
    assert np.isnan(found[:5]).all() and not np.isnan(found[5:]).any()
    # where one teacher alone judged, its scores are the combination, whoever is believed
    np.testing.assert_allclose(found[DOCUMENTS : 10 * DOCUMENTS], mean_of(lists)[DOCUMENTS : 10 * DOCUMENTS], atol=1e-6)
    learnt = Reinforced().learnt(lists)
    spaced = np.repeat(lists.offsets, 2)[1:]  # a query without rows between any two
    np.testing.assert_array_equal(learnt(lists.scores, spaced), learnt(lists.scores, lists.offsets))
    assert learnt(np.empty((2, 0)), np.array([0])).shape == (0,)


# By hand


def test_the_weights_of_a_policy_by_hand():
    found = np.zeros((1, 2, 1))
    policy = Policy(np.zeros((2, 1)), np.ones((2, 1)), np.array([[math.log(2), 0.0], [0.0, 0.0]]))
    # {2}: 1, {1}: 2, both: 2; of 5. The first alone and half of both: .4 + .2.
    np.testing.assert_allclose(policy.weights(found, select=False), [[0.6, 0.4]])
    np.testing.assert_allclose(policy.weights(found, select=True), [[0.5, 0.5]])  # as likely, and more of them
    surer = Policy(np.zeros((2, 1)), np.ones((2, 1)), np.array([[0.0, 1.0], [0.0, 1.0]]))
    one_each = np.array([[[1.0], [-1.0]], [[-9.0], [9.0]]])  # -9 and 9 count as -3 and 3
    e = math.e
    first = (e + 0.5) / (e + 1 / e + 1)
    last = (math.exp(-3) + 0.5) / (math.exp(-3) + math.exp(3) + 1)
    np.testing.assert_allclose(surer.weights(one_each, select=False), [[first, 1 - first], [last, 1 - last]])
    np.testing.assert_allclose(surer.weights(one_each, select=True), [[1, 0], [0, 1]])


def test_the_learnt_policy_is_where_the_penalised_reward_is_highest():
    # One query, no trait, two teachers, rewards 0, 1, .5 of {2}, {1}, both: in deviations -1, 1, 0 times sqrt(1.5).
    policy = Policy.of(np.zeros((1, 2, 1)), np.array([[0.0, 1.0, 0.5]]), penalty=0.5)
    (a, _), (b, _) = policy.coefficients
    first, second = np.meshgrid(np.linspace(-2, 2, 2001), np.linspace(-2, 2, 2001), indexing="ij")
    shares = np.exp(first) + np.exp(second) + np.exp(first + second)
    worth = math.sqrt(1.5) * (np.exp(first) - np.exp(second)) / shares - 0.25 * (first**2 + second**2)
    best = np.unravel_index(np.argmax(worth), worth.shape)
    assert (a, b) == (pytest.approx(first[best], abs=2e-3), pytest.approx(second[best], abs=2e-3))


def test_sets():
    assert subsets(2).tolist() == [[0, 1], [1, 0], [1, 1]]
    assert subsets(4).shape == (15, 4)


def test_traits_by_hand():
    scores = np.array([[1.0, 2, 6, NAN, NAN], [5, 5, 5, 3, NAN]])
    found = traits(scores, Groups(np.array([0, 3, 5])))
    named = {name: found[:, :, place] for place, name in enumerate(TRAITS)}
    # 1, 2, 6: mean 3, deviation sqrt(14 / 3)
    deviation = math.sqrt(14 / 3)
    shares = np.exp(np.array([-2, -1, 3]) / deviation)
    shares /= shares.sum()
    sure = 1 + (shares * np.log(shares)).sum() / math.log(3)
    np.testing.assert_allclose(named["sureness"], [[sure, 0], [NAN, 1]], atol=1e-12)
    np.testing.assert_allclose(named["lead"], [[4 / deviation, 0], [NAN, 0]])
    np.testing.assert_allclose(named["spread"], [[deviation, 0], [NAN, 0]])
    np.testing.assert_allclose(named["height"], [[6, 5], [NAN, 3]])
    np.testing.assert_allclose(named["judged"], [[1, 1], [0, 0.5]])
    np.testing.assert_allclose(named["agreement"], [[0, 0], [NAN, 0]])


def test_agreement_is_the_mean_correlation_over_what_both_judged():
    random = np.random.default_rng(0)
    scores = random.normal(size=(3, 20))
    scores[1, 4:9], scores[2, 7:12] = NAN, NAN
    found = traits(scores, Groups(np.array([0, 20])))[0, :, TRAITS.index("agreement")]

    def correlation(one, other):
        both = ~np.isnan(scores[one]) & ~np.isnan(scores[other])
        return np.corrcoef(scores[one, both], scores[other, both])[0, 1]

    np.testing.assert_allclose(found[0], (correlation(0, 1) + correlation(0, 2)) / 2)
    np.testing.assert_allclose(found[2], (correlation(0, 2) + correlation(1, 2)) / 2)


def test_ndcg_is_that_of_ir_measures_and_the_mean_over_orders_of_ties():
    random = np.random.default_rng(2)
    values, gains = random.permutation(40).astype(float), random.integers(0, 3, 40)
    groups = Groups(np.array([0, 15, 40]))
    names = [f"d{number}" for number in range(40)]
    query = ["a"] * 15 + ["b"] * 25
    qrels, run = {"a": {}, "b": {}}, {"a": {}, "b": {}}
    for name, asked, value, gain in zip(names, query, values, gains, strict=True):
        qrels[asked][name], run[asked][name] = int(gain), float(value)
    expected = {row.query_id: row.value for row in (nDCG @ 5).iter_calc(qrels, run)}
    np.testing.assert_allclose(ndcg(values, gains.astype(float), groups, 5), [expected["a"], expected["b"]])
    # One relevant of two at the top: half of 1 and half of 1 / log2(3).
    tied = ndcg(np.array([2.0, 2, 1, NAN]), np.array([1.0, 0, 0, 0]), Groups(np.array([0, 4])), 10)
    np.testing.assert_allclose(tied, [(1 + 1 / math.log2(3)) / 2])
    unjudged = ndcg(np.full(2, NAN), np.array([0.0, 1]), Groups(np.array([0, 2])), 1)
    np.testing.assert_allclose(unjudged, [0.5])


# What it refuses


def test_labels_are_needed():
    lists = experts(30)
    bare = Lists(lists.scores, lists.offsets, np.full_like(lists.grades, NAN), lists.queries)
    for call in (Reinforced().cross_fitted, Reinforced().learnt):
        with pytest.raises(InputError, match="reinforced learns from labels, and 0 of 30 queries have a relevant"):
            call(bare)
    with pytest.raises(InputError, match="reinforced has learnt nothing yet"):
        Reinforced()(lists.scores, lists.offsets)


def test_too_many_teachers():
    lists = experts(10)
    many = Lists(np.repeat(lists.scores, 5, axis=0), lists.offsets, lists.grades, lists.queries)
    with pytest.raises(InputError, match="got 10 teachers, expected at most 8"):
        Reinforced().learnt(many)


def test_from_a_recipe():
    made = build("combination", {"kind": "reinforced", "select": True, "normalise": "rank"})
    assert made == Reinforced(select=True, normalise="rank")
    with pytest.raises(ValidationError, match="penalty"):
        Reinforced(penalty=0)
    with pytest.raises(ValidationError, match="folds"):
        Reinforced(folds=1)
