import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.scores.combine import COMBINATIONS, Agreed, Confident, Mean, Median, default_combination

NAN = float("nan")
# Two queries: three rows and two.
OFFSETS = np.array([0, 3, 5])


def combined(part, rows, offsets=OFFSETS):
    return part(np.array(rows, dtype=np.float32), np.asarray(offsets))


def test_zscore_by_hand():
    # 1, 2, 3: mean 2, deviation sqrt(2/3). 0, 10: mean 5, deviation 5.
    got = combined(Mean(), [[1, 2, 3, 0, 10]])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [-math.sqrt(1.5), 0, math.sqrt(1.5), -1, 1], rtol=1e-6)


def test_minmax_by_hand():
    np.testing.assert_allclose(combined(Mean(normalise="minmax"), [[1, 2, 5, -10, 10]]), [0, 0.25, 1, 0, 1])


def test_rank_by_hand_with_ties_sharing_their_places():
    got = combined(Mean(normalise="rank"), [[7, 1, 7, 3, 2, 2, 2, 9]], [0, 3, 4, 8])
    # 1 < 7 = 7: places 0 and (1 + 2) / 2 of 2. One row: 0.5. 2 = 2 = 2 < 9: place 1 of 3, and 3 of 3.
    np.testing.assert_allclose(got, [0.75, 0, 0.75, 0.5, 1 / 3, 1 / 3, 1 / 3, 1], rtol=1e-6)


def test_none_averages_raw_scores_by_weight():
    got = combined(Mean(normalise="none", weights=(3, 1)), [[1, 2, 3, 0, 10], [5, 6, 7, 8, -10]])
    np.testing.assert_allclose(got, [2, 3, 4, 2, 5])


@pytest.mark.parametrize(("normalise", "value"), [("zscore", 0), ("minmax", 0), ("rank", 0.5)])
def test_equal_scores_say_nothing(normalise, value):
    # 0.1 in float32 does not survive a mean in float64 unharmed unless equality is seen first.
    got = combined(Mean(normalise=normalise), [[0.1, 0.1, 0.1, 5, 5]])
    assert got.tolist() == [value] * 5


def test_missing_scores_are_masked():
    first = [1, NAN, 3, NAN, NAN]
    second = [NAN, NAN, 10, 4, NAN]
    got = combined(Mean(normalise="none", weights=(1, 3)), [first, second])
    np.testing.assert_allclose(got, [1, NAN, (3 + 30) / 4, 4, NAN])


def test_the_scale_comes_from_the_scores_that_exist():
    got = combined(Mean(), [[1, NAN, 3, 0, 10], [2, 4, 6, NAN, 1]])
    step = math.sqrt(1.5)
    np.testing.assert_allclose(got, [(-1 - step) / 2, 0, (1 + step) / 2, -1, (1 + 0) / 2], atol=1e-6)


def test_a_teacher_with_weight_zero_counts_as_absent():
    rows = [[1, 2, 4, 0, NAN], [9, 1, 3, 5, 7]]
    got = combined(Mean(weights=(1, 0)), rows)
    np.testing.assert_array_equal(got, combined(Mean(), rows[:1]))
    assert math.isnan(got[4])


@pytest.mark.parametrize("normalise", ["zscore", "minmax", "rank"])
def test_shift_and_scale_of_one_teacher_change_nothing(normalise):
    random = np.random.default_rng(0)
    rows = random.standard_normal((3, 40))
    rows[random.random(rows.shape) < 0.2] = NAN
    offsets = np.array([0, 7, 8, 30, 40])
    moved = rows.copy()
    # A shift of its own for each query.
    moved[1] = moved[1] * 17 + np.repeat([100, -3, 0.5, 8], np.diff(offsets))
    part = Mean(normalise=normalise, weights=(1, 2, 0.5))
    np.testing.assert_allclose(part(rows, offsets), part(moved, offsets), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalise", ["none", "zscore", "minmax", "rank"])
def test_order_of_rows_and_teachers_does_not_matter(normalise):
    random = np.random.default_rng(1)
    rows = random.integers(0, 6, (3, 30)).astype(np.float32)
    rows[random.random(rows.shape) < 0.3] = NAN
    offsets = np.array([0, 12, 30])
    order = np.concatenate([random.permutation(12), 12 + random.permutation(18)])
    got = Mean(normalise=normalise, weights=(1, 2, 3))(rows, offsets)
    again = Mean(normalise=normalise, weights=(3, 1, 2))(rows[[2, 0, 1]][:, order], offsets)
    np.testing.assert_allclose(got[order], again, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalise", ["none", "zscore", "minmax", "rank"])
def test_queries_without_rows_and_no_rows_at_all(normalise):
    part = Mean(normalise=normalise)
    rows = [[1, 2, 4, 0, 3]]
    np.testing.assert_array_equal(combined(part, rows, [0, 0, 3, 3, 5, 5]), combined(part, rows))
    assert part(np.empty((2, 0), dtype=np.float32), np.array([0])).shape == (0,)


def plain(normalise, weights, scores, offsets):
    """What Mean does, a number at a time."""
    result = []
    for start, end in pairwise(offsets):
        scaled = []
        for row in scores:
            have = [float(x) for x in row[start:end] if not math.isnan(x)]
            scaled.append([one_scaled(normalise, float(x), have) for x in row[start:end]])
        for column in zip(*scaled, strict=True):
            pairs = [(w, x) for w, x in zip(weights, column, strict=True) if not math.isnan(x)]
            total = sum(w for w, _ in pairs)
            result.append(sum(w * x for w, x in pairs) / total if total else NAN)
    return result


def one_scaled(normalise, x, have):
    if math.isnan(x) or normalise == "none":
        return x
    if normalise == "rank":
        below, equal = sum(y < x for y in have), have.count(x)
        return (below + (equal - 1) / 2) / (len(have) - 1) if len(have) > 1 else 0.5
    if min(have) == max(have):
        return 0.0
    if normalise == "minmax":
        return (x - min(have)) / (max(have) - min(have))
    mean = math.fsum(have) / len(have)
    return (x - mean) / math.sqrt(math.fsum((y - mean) ** 2 for y in have) / len(have))


number = st.one_of(st.just(NAN), st.integers(-3, 3).map(float), st.floats(-100, 100, width=32))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), normalise=st.sampled_from(["none", "zscore", "minmax", "rank"]))
def test_equal_to_a_plain_loop(data, normalise):
    lengths = data.draw(st.lists(st.integers(0, 6), max_size=5))
    offsets = np.cumsum([0, *lengths])
    teachers = data.draw(st.integers(1, 3))
    rows = data.draw(
        st.lists(st.lists(number, min_size=sum(lengths), max_size=sum(lengths)), min_size=teachers, max_size=teachers)
    )
    weights = data.draw(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=teachers, max_size=teachers).filter(any)
    )
    scores = np.array(rows, dtype=np.float32).reshape(teachers, -1)
    got = Mean(normalise=normalise, weights=tuple(weights))(scores, offsets)
    np.testing.assert_allclose(got, plain(normalise, weights, scores, offsets), rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_fit_the_teachers():
    with pytest.raises(InputError, match="2 weights for 3 teachers"):
        combined(Mean(weights=(1, 2)), [[1.0] * 5] * 3)


@pytest.mark.parametrize("weights", [(1, -1), (0, 0), (), (1, math.inf), (NAN,)])
def test_weights_that_cannot_be(weights):
    with pytest.raises(ValidationError, match="weights"):
        Mean(weights=weights)


def test_offsets_that_are_of_other_rows():
    with pytest.raises(ValueError, match="offsets from 0 to 5"):
        combined(Mean(), [[1, 2, 3, 4]])


def test_a_single_teacher_keeps_its_logits():
    assert default_combination(1).normalise == "none"
    assert default_combination(3).normalise == "zscore"


def test_from_a_recipe():
    assert COMBINATIONS["mean"] is Mean
    assert build("combination", {"kind": "mean", "weights": [1, 2]}) == Mean(weights=(1, 2))
    assert build("combination", "mean:rank") == Mean(normalise="rank")


# Other ways than the mean


def test_reciprocal_rank_is_that_of_the_rank_from_one():
    scores = np.array([[3.0, 1.0, 2.0, np.nan], [5.0, 5.0, 1.0, 0.0]], dtype=np.float32)
    found = Mean(normalise="reciprocal_rank")(scores, np.array([0, 4]))
    expected = [(1 / 61 + 1 / 61.5) / 2, (1 / 63 + 1 / 61.5) / 2, (1 / 62 + 1 / 63) / 2, 1 / 64]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(Mean(normalise="reciprocal_rank")(np.ones((1, 1)), np.array([0, 1])), [1 / 61])


def test_a_teachers_zscore_is_over_all_queries():
    scores = np.array([[1.0, 2.0, 10.0, 11.0]])
    found = Mean(normalise="teacher_zscore")(scores, np.array([0, 2, 4]))
    np.testing.assert_allclose(found, (scores[0] - 6) / scores[0].std(), rtol=1e-6)
    assert not Mean(normalise="teacher_zscore")(np.full((1, 3), 7.0), np.array([0, 3])).any()


def test_temperatures_are_divided_by_first():
    scores = np.array([[2.0, 4.0], [10.0, 30.0]])
    found = Mean(normalise="none", temperatures=(2, 10))(scores, np.array([0, 2]))
    np.testing.assert_allclose(found, [1.0, 2.5])
    with pytest.raises(InputError, match="temperatures: got 1 temperatures for 2 teachers"):
        Mean(temperatures=(1,))(scores, np.array([0, 2]))


def test_the_median_does_not_move_for_one_that_is_far_off():
    scores = np.array([[1.0, 5.0, np.nan], [2.0, np.nan, np.nan], [900.0, 6.0, np.nan]])
    found = Median(normalise="none")(scores, np.array([0, 3]))
    np.testing.assert_allclose(found, [2, 5.5, np.nan])


def test_what_teachers_disagree_about_most_is_left_out():
    scores = np.array([[0.0, 1.0, 2.0, 3.0, 4.0], [0.1, 1.0, 2.1, 3.0, -4.0]])
    found = Agreed(normalise="none", quantile=0.8)(scores, np.array([0, 5]))
    np.testing.assert_allclose(found, [0.05, 1, 2.05, 3, np.nan])
    alone = np.array([[0.0, 1.0, np.nan], [np.nan, np.nan, 5.0]])
    np.testing.assert_allclose(Agreed(normalise="none")(alone, np.array([0, 3])), [0, 1, 5])  # nobody to disagree with
    np.testing.assert_allclose(Agreed(quantile=1.0)(scores, np.array([0, 5])), Mean()(scores, np.array([0, 5])))


def test_confident_by_hand():
    # softmax of (log 3, 0) is (3/4, 1/4), of (0, 0) even: all weight goes to the sure teacher.
    got = combined(Confident(normalise="none"), [[math.log(3), 0], [0, 0]], [0, 2])
    np.testing.assert_allclose(got, [math.log(3), 0], rtol=1e-6)
    # sureness of (3/4, 1/4) and of (1/4, 3/4) is the same, so the mean is the plain one
    got = combined(Confident(normalise="none"), [[math.log(3), 0], [0, math.log(3)]], [0, 2])
    np.testing.assert_allclose(got, [math.log(3) / 2] * 2, rtol=1e-6)
    entropy = 2 - 0.75 * math.log2(3)  # bits of (3/4, 1/4)
    other = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    weights = np.array([1 - entropy, 1 - other])
    got = combined(Confident(normalise="none"), [[math.log(3), 0], [0, math.log(9)]], [0, 2])
    expected = [weights[0] * math.log(3) / weights.sum(), weights[1] * math.log(9) / weights.sum()]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_where_nobody_is_sure_nothing_is_said():
    got = combined(Confident(normalise="none"), [[1, 1, 1, 0, 9], [2, 2, 2, NAN, NAN]])
    assert np.isnan(got[:3]).all()
    np.testing.assert_allclose(got[3:], [0, 9], rtol=1e-5)


def test_where_nobody_is_sure_the_plain_mean_is_measured():
    rule = Confident(normalise="none")
    everything = rule.unfiltered()
    assert everything == Confident(normalise="none", keep_unsure=True) != rule
    got = combined(everything, [[1, 1, 1, 0, 9], [2, 2, 2, NAN, NAN]])
    np.testing.assert_allclose(got, [1.5, 1.5, 1.5, 0, 9])
    weighed = Confident(normalise="none", weights=(1, 3)).unfiltered()
    np.testing.assert_allclose(combined(weighed, [[1, 1], [2, 2]], [0, 2]), [1.75, 1.75])
    # the first is sure and has not judged the last, the second is unsure, and of weight where the first has none
    scores = [[math.log(3), 0, NAN, NAN], [5, 5, 5, NAN]]
    np.testing.assert_allclose(combined(rule, scores, [0, 4]), [math.log(3), 0, NAN, NAN], rtol=1e-6)
    np.testing.assert_allclose(combined(everything, scores, [0, 4]), [math.log(3), 0, 5, NAN], rtol=1e-6)
    alone = Confident(normalise="none", weights=(0, 1))
    np.testing.assert_array_equal(combined(alone, scores, [0, 4]), [NAN] * 4)
    np.testing.assert_array_equal(combined(alone.unfiltered(), scores, [0, 4]), [5, 5, 5, NAN])


@given(st.lists(st.lists(st.integers(-3, 3) | st.just(NAN), min_size=5, max_size=5), min_size=2, max_size=2))
def test_what_is_measured_is_what_was_learnt_and_all_that_was_judged(scores):
    learnt, measured = (combined(rule, scores, [0, 2, 5]) for rule in (Confident(), Confident().unfiltered()))
    taught = ~np.isnan(learnt)
    np.testing.assert_array_equal(learnt[taught], measured[taught])
    np.testing.assert_array_equal(np.isnan(measured), np.isnan(scores).all(axis=0))


@given(st.lists(st.integers(-50, 50), min_size=5, max_size=5), st.integers(-1000, 1000))
def test_sureness_does_not_move_with_a_shift(scores, shift):
    other = [0, 1, 2, 3, 4]
    part = Confident(normalise="zscore")
    np.testing.assert_allclose(
        combined(part, [scores, other]), combined(part, [[score + shift for score in scores], other]), atol=2e-3
    )


@pytest.mark.filterwarnings("error")
def test_reciprocal_ranks_of_few_among_many_unjudged():
    rows = np.full((1, 200), NAN)
    rows[0, [3, 150]] = [1.0, 2.0]
    got = combined(Mean(normalise="reciprocal_rank"), rows, [0, 200])
    np.testing.assert_allclose(got[[3, 150]], [1 / 62, 1 / 61], rtol=1e-6)
    assert np.isnan(got).sum() == 198


def test_what_teachers_disagree_about_counts_less_by_hand():
    nan = np.nan
    scores = np.array([[1.0, 2.0, nan, 4.0], [3.0, 2.0, 7.0, 0.0]])
    part = Mean(normalise="none", weigh="disagreement")
    # deviations 1, 0, unknown, 2: 1/2, 1, their mean, 1/5
    expected = [0.5, 1.0, (0.5 + 1.0 + 0.2) / 3, 0.2]
    np.testing.assert_allclose(part.certainty(scores, np.array([0, 2, 4])), expected, rtol=1e-6)
    np.testing.assert_array_equal(
        part(scores, np.array([0, 2, 4])), Mean(normalise="none")(scores, np.array([0, 2, 4]))
    )
    # z-scores of (0, 2) and (5, 1) are (-1, 1) and (1, -1): deviations 1; of (0, 2) and (1, 3) they are the same
    zscores = Median(weigh="disagreement").certainty(np.array([[0.0, 2.0, 0, 2], [5, 1, 1, 3]]), np.array([0, 2, 4]))
    np.testing.assert_allclose(zscores, [0.5, 0.5, 1, 1], rtol=1e-6)
    assert part.certainty(scores, np.array([0, 2, 4])).dtype == np.float32
    assert Mean().certainty(scores, np.array([0, 2, 4])) is None


def test_disagreement_in_parts_is_that_of_all_at_once(monkeypatch):
    scores = np.random.default_rng(3).normal(size=(3, 60))
    scores[np.random.default_rng(4).random(scores.shape) < 0.4] = np.nan
    offsets = np.array([0, 7, 7, 20, 44, 60])
    for part in (Mean(weigh="disagreement"), Mean(weigh="disagreement", normalise="teacher_zscore")):
        monkeypatch.undo()
        whole = part.certainty(scores, offsets)
        monkeypatch.setattr("retrodistill.scores.combine._QUERIES_AT_ONCE", 2)
        np.testing.assert_array_equal(part.certainty(scores, offsets), whole)


def test_a_score_of_few_comparisons_counts_less_by_hand():
    nan, offsets = np.nan, np.array([0, 2, 4])
    scores, errors = np.array([[0.0, 2.0, 0, 4], [1, 2, 3, nan]]), np.array([[1.0, 3, nan, 2], [nan, 3, nan, nan]])
    raw = Mean(normalise="none", weigh="error").certainty(scores[:1], offsets, errors[:1])
    np.testing.assert_allclose(raw, [1 / 2, 1 / 10, (1 / 2 + 1 / 10 + 1 / 5) / 3, 1 / 5], rtol=1e-6)
    halved = Mean(normalise="none", weigh="error", temperatures=(2.0,)).certainty(scores[:1], offsets, errors[:1])
    np.testing.assert_allclose(halved[[0, 1, 3]], [1 / 1.25, 1 / 3.25, 1 / 2], rtol=1e-6)
    # z-scores: deviations 1 and 2 of the first teacher, .5 of the second: errors 1; 3 and 6; 1
    found = Mean(weigh="error").certainty(scores, offsets, errors)
    np.testing.assert_allclose(found[[0, 1, 3]], [1 / 2, 1 / (1 + (9 + 36) / 2), 1 / 2], rtol=1e-6)


def test_errors_that_nobody_has_and_scales_that_have_none():
    scores = np.array([[1.0, 2.0]])
    with pytest.raises(
        InputError, match="no candidate has a score with a standard error, as teachers have that compare"
    ):
        Mean(weigh="error").certainty(scores, np.array([0, 2]))
    with pytest.raises(ValidationError, match="weigh: error, and rank has no place for one"):
        Mean(weigh="error", normalise="rank")


def test_one_teacher_does_not_disagree():
    with pytest.raises(InputError, match="no candidate has a score of two teachers"):
        Mean(weigh="disagreement").certainty(np.array([[1.0, 2.0]]), np.array([0, 2]))
