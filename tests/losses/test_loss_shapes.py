"""What a loss gives is one value a query, and a mask; anything else is told before it is stretched to that."""

from typing import Literal

import pytest
from score_batches import random_batch

from retrodistill.errors import InputError
from retrodistill.losses.batch import Loss


class Own(Loss):
    kind: Literal["own"] = "own"

    def terms(self, batch):
        return GIVES[self.weight](batch.student, batch.own.any(-1))


GIVES = {
    1.0: lambda scores, mask: (scores.sum(), mask),
    2.0: lambda scores, mask: (scores.mean(-1, keepdim=True), mask),
    3.0: lambda scores, mask: (scores.mean(0), mask),
    4.0: lambda scores, mask: scores.mean(),
    5.0: lambda scores, mask: (scores.mean(-1), mask.float()),
    6.0: lambda scores, mask: (scores.mean(-1), True),
    7.0: lambda scores, mask: (scores.mean(-1), mask.any()),
}


@pytest.mark.parametrize(
    ("case", "said"),
    [(1.0, "floating () and bool (4,)"), (2.0, "floating (4, 1) and bool (4,)"), (3.0, "floating (7,) and bool (4,)"),
     (4.0, "floating ()"), (5.0, "floating (4,) and floating (4,)"), (6.0, "floating (4,) and bool"),
     (7.0, "floating (4,) and bool ()")],
)  # fmt: skip
def test_another_shape_is_told_with_the_loss_and_what_was_expected(case, said):
    batch = random_batch(0, queries=4, documents=7)
    with pytest.raises(InputError) as error:
        Own(weight=case)(batch)
    assert f"loss own (test_loss_shapes:Own): terms gave {said} for 4 queries, expected floating (4,)" in str(
        error.value
    )
