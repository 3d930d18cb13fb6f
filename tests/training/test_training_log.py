from retrodistill.training.trainer import _means


def test_a_number_is_averaged_over_the_steps_that_have_it():
    """A process that had no share in a step watched nothing in it, be it the first or a later one."""
    steps = [{"loss": 1.0}, {"loss": 2.0, "query_active": 40.0}, {"loss": 6.0, "query_active": 20.0}]
    assert _means(steps) == {"loss": 3.0, "query_active": 30.0}
