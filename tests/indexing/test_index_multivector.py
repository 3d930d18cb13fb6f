import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill import emissions
from retrodistill.emissions import MultiVectors
from retrodistill.errors import InputError
from retrodistill.indexing import multivector
from retrodistill.indexing.index import search
from retrodistill.indexing.multivector import MultiVector


def multi(texts, width=2):
    """Texts given as lists of vectors."""
    vectors = np.array([vector for text in texts for vector in text], dtype=np.float32).reshape(-1, width)
    return MultiVectors(np.array([len(text) for text in texts], dtype=np.int64), vectors)


def of(vectors):
    """Vectors of each text, taken apart."""
    return np.split(np.asarray(vectors.vectors, dtype=np.float64), vectors.offsets[1:-1])


def naive(queries, documents):
    """One token pair after another."""
    return np.array(
        [
            [sum((max((q @ d for d in doc), default=0.0)) for q in query) for doc in of(documents)]
            for query in of(queries)
        ]
    )


def random_texts(generator, lengths, width=3, whole=False):
    vectors = (
        generator.integers(-2, 3, (sum(lengths), width)) if whole else generator.standard_normal((sum(lengths), width))
    )
    return MultiVectors(np.array(lengths, dtype=np.int64), vectors.astype(np.float32))


@st.composite
def searches(draw):
    """Small whole numbers: products are exact, and many scores are ties; some texts have no vectors."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    queries, documents = (draw(st.lists(st.integers(0, 5), min_size=1, max_size=size)) for size in (6, 30))
    budgets = draw(st.sampled_from([(1, 1), (4, 7), (256, 4096)]))
    sides = (random_texts(generator, lengths, whole=True) for lengths in (queries, documents))
    return (*sides, draw(st.integers(1, 40)), budgets)


@settings(deadline=None, max_examples=60)
@given(searches())
def test_search_equals_brute_force_ties_and_empty_documents_included(case):
    queries, documents, depth, (these, others) = case
    ids = [f"d{number}" for number in np.random.default_rng(0).permutation(len(documents))]
    expected = []
    for row in naive(queries, documents):
        order = sorted(zip(row.tolist(), ids, strict=True), reverse=True)
        expected.append([(doc, score) for score, doc in order[:depth]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emissions, "_THESE_AT_ONCE", these)
        patch.setattr(emissions, "_OTHERS_AT_ONCE", others)
        patch.setattr(multivector, "_SCORES_AT_ONCE", others)
        found = search(MultiVector().build(documents), ids, queries, depth)
    assert [list(row.items()) for row in found] == expected


def test_by_hand():
    documents = multi([[[3, 1], [1, 2], [-1, 0]], [[-1, -2]], []])
    scores, rows = MultiVector().build(documents).nearest(multi([[[1, 0], [0, 1]], [[2, 1]]]), 3)
    assert scores.tolist() == [[5, 0, -3], [7, 0, -4]]
    assert rows.tolist() == [[0, 2, 1], [0, 2, 1]]
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)


def test_real_vectors_equal_the_differentiable_maxsim():
    import torch

    from retrodistill.students.embedded import Embedded
    from retrodistill.students.maxsim import maxsim

    generator = np.random.default_rng(0)
    queries, documents = (
        random_texts(generator, generator.integers(0, 40, count).tolist(), width=16) for count in (20, 300)
    )
    sides = [Embedded(torch.from_numpy(side.vectors), torch.from_numpy(side.lengths)) for side in (queries, documents)]
    np.testing.assert_allclose(queries.scores(documents), maxsim(*sides).numpy(), atol=1e-4)


def test_pairs_score_as_the_matrix_does():
    generator = np.random.default_rng(0)
    queries, documents = (random_texts(generator, generator.integers(0, 9, count).tolist()) for count in (5, 60))
    left, right = (generator.integers(0, len(side), 3_000) for side in (queries, documents))
    np.testing.assert_allclose(
        queries.pair_scores(documents, left, right), queries.scores(documents)[left, right], atol=1e-5
    )


def test_all_token_pairs_are_never_held_at_once():
    generator = np.random.default_rng(0)
    queries, documents = (random_texts(generator, lengths, width=4) for lengths in ([32] * 50, [100] * 300))
    built = MultiVector().build(documents)
    tracemalloc.start()
    built.nearest(queries, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # all of them would take 1,600 x 30,000 x 4 bytes: 192 MB


def test_no_query_and_a_depth_beyond_the_index():
    built = MultiVector().build(multi([[[1, 2]]]))
    assert search(built, ["only"], multi([]), 5) == []
    assert search(built, ["only"], multi([[[3, 4]], []]), 10) == [{"only": 11}, {"only": 0}]
    assert (built.size, built.bytes) == (1, 8 + 8)


@pytest.mark.parametrize("broken", ["query", "index"])
def test_nan_is_told(broken):
    sides = {"query": multi([[[1, 1]]]), "index": multi([[[1, 0]], [[0, 1]]])}
    sides[broken].vectors[0, 0] = np.nan
    with pytest.raises(InputError, match="is NaN; the model has diverged in training"):
        MultiVector().build(sides["index"]).nearest(sides["query"], 1)


def test_another_dimension_is_refused():
    with pytest.raises(InputError, match="the index holds vectors of 2 dimensions, the query has 3"):
        MultiVector().build(multi([[[1, 0]]])).nearest(multi([[[1, 0, 0]]], width=3), 1)


def test_half_precision_halves_the_index_and_hardly_moves_a_score():
    generator = np.random.default_rng(0)
    documents, queries = (random_texts(generator, [20] * count, width=32) for count in (50, 4))
    for side in (documents, queries):
        side.vectors[:] /= np.linalg.norm(side.vectors, axis=1, keepdims=True)
    whole, half = (MultiVector(precision=precision).build(documents) for precision in ("float32", "float16"))
    assert half.bytes - documents.lengths.nbytes == (whole.bytes - documents.lengths.nbytes) / 2
    exact, rough = (np.sort(built.nearest(queries, 50)[0]) for built in (whole, half))
    assert 0 < np.abs(exact - rough).max() < 20 * 0.0005


def test_vectors_on_disk_are_not_copied(tmp_path):
    np.save(tmp_path / "vectors.npy", multi([[[1, 2]], [[3, 4]]]).vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    built = MultiVector().build(MultiVectors(np.array([1, 1]), mapped))
    assert np.shares_memory(built.documents.vectors, mapped)


# On disk


@pytest.fixture
def saved(tmp_path):
    documents = random_texts(np.random.default_rng(0), [3, 0, 7, 1, 20])
    MultiVector().build(documents).save(tmp_path)
    return tmp_path, documents


def test_what_is_saved_is_loaded(saved):
    folder, documents = saved
    loaded, built = MultiVector().load(folder), MultiVector().build(documents)
    assert (loaded.size, loaded.bytes) == (built.size, built.bytes)
    for one, other in zip(loaded.nearest(documents[:3], 4), built.nearest(documents[:3], 4), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["lengths.npy", "vectors.npy"])
@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b[:10], lambda b: b"", lambda b: b"junk" * 50, None]
)
def test_a_damaged_index_is_refused(saved, name, damage):
    path = saved[0] / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{name}: cannot be read .*; build the index again: retrodistill index"):
        MultiVector().load(saved[0])


@pytest.mark.parametrize("lengths", [np.array([3, 0, 7, 1, 19]), np.array([3, -1, 8, 1, 20])])
def test_files_that_do_not_fit_are_refused(saved, lengths):
    np.save(saved[0] / "lengths.npy", lengths)
    with pytest.raises(InputError, match="do not fit each other; build the index again"):
        MultiVector().load(saved[0])


def test_a_pickled_array_is_refused(saved):
    np.save(saved[0] / "vectors.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"vectors\.npy: cannot be read"):
        MultiVector().load(saved[0])


def test_queries_find_the_same_bits_whatever_is_asked_with_them():
    """In multiples of what is looked at together, which mining within a budget keeps to."""
    generator = np.random.default_rng(3)
    documents = random_texts(generator, generator.integers(5, 40, 300).tolist(), 48)
    # one vector more than is multiplied at once: the last query of 32 is left for a product of its own
    queries = random_texts(generator, ([9] * 28 + [1] * 3 + [2]) * 3 + [8] * 4, 48)
    built = MultiVector().build(documents)
    ids = [f"d{row}" for row in range(300)]
    for step in (32, 64):
        parts = [search(built, ids, queries[start : start + step], 300) for start in range(0, 100, step)]
        assert [found for part in parts for found in part] == search(built, ids, queries, 300)
