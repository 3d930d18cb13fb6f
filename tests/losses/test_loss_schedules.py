import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.errors import Problems
from retrodistill.losses.divergences import KL
from retrodistill.losses.schedules import Schedule, weight_at
from retrodistill.recipe import part
from retrodistill.registry import build

shares = st.floats(0, 1)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [("linear", [2, 3, 4, 6, 6]), ("quadratic", [2, 2.25, 3, 6, 6]), ("cosine", [2, 4 - 2**0.5, 4, 6, 6])],
)
def test_schedules_by_hand(shape, wanted):
    schedule = Schedule(start=2, end=6, over=0.5, shape=shape)
    assert [schedule.at(progress) for progress in (0, 0.125, 0.25, 0.5, 1)] == pytest.approx(wanted)


@given(shares, shares, st.sampled_from(["linear", "quadratic", "cosine"]))
def test_schedules_go_one_way(first, second, shape):
    rising, falling = (Schedule(start=a, end=b, over=0.4, shape=shape) for a, b in ((0.5, 3), (3, 0.5)))
    earlier, later = sorted([first, second])
    assert 0.5 <= rising.at(earlier) <= rising.at(later) <= 3
    assert 3 >= falling.at(earlier) >= falling.at(later) >= 0.5


def test_outside_of_the_training_a_schedule_keeps_its_ends():
    assert Schedule(start=1, end=2).at(-1) == 1
    assert Schedule(start=1, end=2).at(7) == 2


def test_a_weight_is_a_number_or_a_schedule():
    assert KL(weight=2).weight_at(0.3) == weight_at(2.0, 0.3) == 2
    loss = build("loss", {"kind": "kl", "weight": {"start": 0, "end": 0.5, "over": 0.25, "shape": "quadratic"}})
    assert loss.weight == Schedule(end=0.5, over=0.25, shape="quadratic")
    assert [loss.weight_at(progress) for progress in (0, 0.125, 0.25, 1)] == [0, 0.125, 0.5, 0.5]
    assert build("loss", loss.model_dump()) == loss


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (-1, "weight: expected a number >= 0 or a schedule such as {start: 0, end: 1, over: 0.3}, got -1"),
        ("much", "weight: expected a number >= 0 .* got 'much'"),
        (float("nan"), "got nan"),
        ({"strat": 1}, "weight.strat: unknown key; did you mean 'start'"),
        ({"over": 0}, "weight.over: .* got 0"),
        ({"end": -2}, "weight.end: .* got -2"),
        ({"shape": "square"}, "weight.shape: .* got 'square'"),
    ],
)
def test_weights_that_cannot_be_are_refused_by_name(weight, said):
    with pytest.raises(Problems, match=said.replace("{", r"\{")):
        part("loss", {"kind": "kl", "weight": weight})
