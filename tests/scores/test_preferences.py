import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.scores.preferences import Preferences


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 1000))
def test_the_columns_of_a_batch_have_what_the_matrices_had(sizes, seed):
    generator = np.random.default_rng(seed)
    matrices = [np.where(generator.random((n, n)) < 0.4, np.nan, generator.random((n, n))) for n in sizes]
    for matrix in matrices:
        np.fill_diagonal(matrix, np.nan)
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    found = Preferences.of(matrices, starts)
    query = int(generator.integers(len(sizes)))
    picked = generator.permutation(sizes[query])[: generator.integers(0, sizes[query] + 1)]
    columns = generator.permutation(9)[: len(picked)]
    matrix = found.matrix(query, picked + starts[query], columns, 9)
    expected = np.full((9, 9), np.nan)
    expected[np.ix_(columns, columns)] = matrices[query][np.ix_(picked, picked)]
    np.testing.assert_allclose(matrix, expected, rtol=1e-6)
