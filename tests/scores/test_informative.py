import numpy as np
import pytest
from pydantic import ValidationError

from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.scores.combine import Mean
from retrodistill.scores.informative import Informative

NAN = float("nan")
# Four queries of three documents. The teachers are surer from one to the next, the student about the second and third.
OFFSETS = np.arange(5) * 3
TEACHER = np.array([0, 0, 0, 1, 0, 0, 3, 0, 0, 9, 0, 0], dtype=np.float32)
STUDENT = np.array([1, 0, 0, 8, 0, 0, 9, 0, 0, 2, 0, 0], dtype=np.float32)


def rule(**options):
    return Informative(student="bm25", normalise="none", **options)


def taught(found):
    return (~np.isnan(found)).reshape(-1, 3).all(axis=1).tolist()


def test_by_hand():
    # Of four, the quarter that is least sure goes for the teachers' sake, and the surest quarter for the student's.
    found = rule(unsure=0.25, known=0.25).chosen(TEACHER[None], STUDENT, OFFSETS)
    assert found.dtype == np.float32
    assert taught(found) == [False, True, False, True]
    np.testing.assert_array_equal(found[3:6], [1, 0, 0])
    assert taught(rule(unsure=0.5, known=0).chosen(TEACHER[None], STUDENT, OFFSETS)) == [False, False, True, True]
    assert taught(rule(unsure=0, known=0.5).chosen(TEACHER[None], STUDENT, OFFSETS)) == [True, False, False, True]


def test_nothing_goes_where_nothing_is_asked_to_and_where_a_teacher_is_measured():
    scores = np.stack([TEACHER, -TEACHER])
    plain = Mean(normalise="none", weights=(2, 1))(scores, OFFSETS)
    np.testing.assert_array_equal(rule(unsure=0, known=0, weights=(2, 1)).chosen(scores, STUDENT, OFFSETS), plain)
    np.testing.assert_array_equal(rule(weights=(2, 1))(scores, OFFSETS), plain)


def test_equal_ones_all_stay():
    same = np.tile(np.array([2.0, 1.0, 0.0]), 4)
    assert taught(rule(unsure=0.9, known=0.9).chosen(same[None], same, OFFSETS)) == [True] * 4


def test_sureness_is_the_mean_over_the_teachers_that_judged():
    second = np.array([NAN, NAN, NAN, 9, 0, 0, 0, 0, 0, NAN, NAN, NAN])
    scores = np.stack([TEACHER, second])
    # teachers' sureness: 0; that of 1 and of 9; half that of 3; that of 9
    assert taught(rule(unsure=0.5, known=0).chosen(scores, STUDENT, OFFSETS)) == [False, True, False, True]


def test_a_query_that_the_student_has_not_seen_is_none_that_it_knows():
    unseen = STUDENT.copy()
    unseen[6:9] = NAN
    assert taught(rule(unsure=0, known=0.4).chosen(TEACHER[None], unseen, OFFSETS)) == [True, False, True, True]
    with pytest.raises(InputError, match="informative looks at bm25, which has judged none of the 12 candidates"):
        rule().chosen(TEACHER[None], np.full(12, NAN), OFFSETS)


def test_what_nobody_judged_stays_so():
    scores = np.full((2, 12), NAN)
    assert np.isnan(rule().chosen(scores, STUDENT, OFFSETS)).all()
    assert rule().chosen(np.empty((2, 0)), np.empty(0), np.array([0])).shape == (0,)


@pytest.mark.parametrize("normalise", ["zscore", "minmax", "teacher_zscore"])
def test_units_and_the_order_of_rows_do_not_matter(normalise):
    random = np.random.default_rng(0)
    scores, student, offsets = random.normal(size=(2, 200)) ** 3, random.normal(size=200) ** 3, np.arange(21) * 10
    part = Informative(student="bm25", normalise=normalise)
    found = part.chosen(scores, student, offsets)
    assert np.isnan(found).any() and not np.isnan(found).all()
    np.testing.assert_allclose(part.chosen(scores * 50 - 7, student * 3 + 1, offsets), found, rtol=1e-4, atol=1e-5)
    queries = random.permutation(20)
    rows = np.concatenate([query * 10 + random.permutation(10) for query in queries])
    np.testing.assert_allclose(part.chosen(scores[:, rows], student[rows], offsets), found[rows], rtol=1e-5, atol=1e-6)


def test_temperatures_are_the_teachers_alone():
    part = rule(unsure=0, known=0.5, temperatures=(2.0,))
    found = part.chosen(TEACHER[None], STUDENT, OFFSETS)
    assert taught(found) == [True, False, False, True]
    np.testing.assert_array_equal(found[9:], [4.5, 0, 0])


def test_from_a_recipe():
    made = build("combination", {"kind": "informative:bm25", "known": 0.5})
    assert made.label == "informative:bm25" and made.looks_at == (made.student,)
    assert Mean().looks_at == ()
    with pytest.raises(ValidationError, match="as even in every list"):
        Informative(student="bm25", normalise="rank")
    with pytest.raises(ValidationError, match="student"):
        build("combination", "informative")
    with pytest.raises(InputError, match="no/such"):
        build("combination", "informative:dense:no/such-model").check()
