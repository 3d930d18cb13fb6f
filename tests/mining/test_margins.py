import numpy as np
import pytest
from mining_pools import pool_of
from pydantic import ValidationError

from retrodistill.mining.margins import Margin, PercPos, ScoreWindow

NAN = float("nan")


def kept(part, scores, positives):
    return np.array(scores)[part.keep(pool_of(scores=scores, positives=positives))].tolist()


@pytest.mark.parametrize(
    ("part", "scores", "positives", "expected"),
    [
        # At or above the positive goes, whatever the sign.
        (Margin(), [3.0, 2.0, 1.5, -1.0], [2.0], [1.5, -1.0]),
        (Margin(), [-1.0, -2.0, -2.5], [-2.0], [-2.5]),
        (Margin(absolute=0.5), [2.0, 1.75, 1.5, 1.25], [2.0], [1.25]),
        (Margin(absolute=0.5), [-2.25, -2.5, -2.75], [-2.0], [-2.75]),
        (Margin(absolute=-1), [3.0, 2.5, 1.0], [2.0], [2.5, 1.0]),  # a margin above the positive
        # A quarter of the magnitude below the positive: 1.5 below 2, -2.5 below -2.
        (Margin(relative=0.25), [2.0, 1.75, 1.5, 1.25], [2.0], [1.25]),
        (Margin(relative=0.25), [-1.0, -2.25, -2.5, -2.75], [-2.0], [-2.75]),
        (Margin(relative=0.25), [0.5, 0.0, -0.5], [0.0], [-0.5]),
        # Of both the stricter one.
        (Margin(absolute=1.0, relative=0.25), [1.25, 1.0, 0.75], [2.0], [0.75]),
        (Margin(absolute=0.25, relative=0.25), [1.75, 1.5, 1.25], [2.0], [1.25]),
        # Which positive.
        (Margin(), [3.5, 2.5, 1.5, 0.5], [1.0, 3.0], [0.5]),
        (Margin(against="mean"), [3.5, 2.5, 1.5, 0.5], [1.0, 3.0], [1.5, 0.5]),
        (Margin(against="max"), [3.5, 2.5, 1.5, 0.5], [1.0, 3.0], [2.5, 1.5, 0.5]),
        # A positive without a score counts for nothing.
        (Margin(), [3.5, 2.5, 1.5], [NAN, 3.0], [2.5, 1.5]),
        # NV-Retriever's: below 75 % of the positive, and as far below a negative one.
        (PercPos(percent=75), [2.0, 1.5, 1.25], [2.0], [1.25]),
        (PercPos(percent=75), [-1.0, -2.0, -2.5, -2.75], [-2.0], [-2.75]),
        (PercPos(percent=100), [-2.0, -2.25], [-2.0], [-2.25]),
        # Logits -2.2, 0, 1.1 are probabilities .1, .5, .75; 80 % of .75 is .6.
        (PercPos(percent=80, sigmoid=True), [0.5, 0.0, -2.2], [np.log(3.0)], [0.0, -2.2]),
        (ScoreWindow(max=0.5), [0.75, 0.5, 0.25], [], [0.5, 0.25]),
        (ScoreWindow(min=-0.5), [-0.25, -0.5, -0.75], [], [-0.25, -0.5]),
        (ScoreWindow(min=-1.0, max=0.0), [0.5, 0.0, -1.0, -2.0], [5.0], [0.0, -1.0]),
        (ScoreWindow(max=0.5, sigmoid=True), [1.0, -1.0], [], [-1.0]),
    ],
)
def test_by_hand(part, scores, positives, expected):
    assert kept(part, scores, positives) == expected


@pytest.mark.parametrize(
    "part", [Margin(absolute=0.5), Margin(relative=0.5), PercPos(percent=50), ScoreWindow(max=1.0)]
)
def test_what_has_no_score_stays(part):
    assert part.keep(pool_of(scores=[NAN, 5.0, NAN], positives=[1.0])).tolist() == [True, False, True]


@pytest.mark.parametrize("positives", [[], [NAN]])
def test_without_a_judged_positive_everything_stays(positives):
    assert kept(Margin(), [3.0, 2.0], positives) == [3.0, 2.0]


def test_windows_that_drop_nothing_or_all_are_refused():
    with pytest.raises(ValidationError, match="neither min nor max"):
        ScoreWindow()
    with pytest.raises(ValidationError, match=r"max: 1.0 is below min: 2.0"):
        ScoreWindow(min=2, max=1)
