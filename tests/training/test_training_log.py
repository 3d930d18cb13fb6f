from retrodistill.training.trainer import _means


def test_a_number_is_averaged_over_the_steps_that_have_it():
    """A student may begin or cease to add one."""
    steps = [{"loss": 1.0}, {"loss": 2.0, "query_active": 40.0}, {"loss": 6.0, "query_active": 20.0}]
    assert _means(steps) == {"loss": 3.0, "query_active": 30.0}
