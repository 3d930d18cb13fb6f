import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.emissions import MultiVectors
from retrodistill.errors import InputError
from retrodistill.indexing.index import search
from retrodistill.indexing.multivector import MultiVector
from retrodistill.indexing.probed import ProbedMultiVector


def texts(generator, lengths, topics, spread=0.15):
    """Unit vectors around the centre of each text's topic, as tokens of one subject are."""
    centres = np.random.default_rng(9).standard_normal((6, 16))
    rows = np.repeat(centres[topics], lengths, axis=0) + spread * generator.standard_normal((sum(lengths), 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return MultiVectors(np.array(lengths, dtype=np.int64), rows.astype(np.float32))


@pytest.fixture(scope="module")
def topical():
    """300 documents and 12 queries on six topics, and which is of which."""
    generator = np.random.default_rng(0)
    of_documents, of_queries = generator.integers(0, 6, 300), np.arange(12) % 6
    lengths = generator.integers(0, 30, 300).tolist()
    return texts(generator, lengths, of_documents), texts(generator, [5] * 12, of_queries), of_documents, of_queries


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 50), st.integers(0, 2**32))
def test_with_every_document_a_candidate_it_is_exact(lengths, depth, seed):
    generator = np.random.default_rng(seed)
    documents, queries = (
        MultiVectors(np.array(n), generator.integers(-2, 3, (sum(n), 4)).astype(np.float32)) for n in (lengths, [3, 0])
    )
    ids = [f"d{number}" for number in range(len(lengths))]
    probed = ProbedMultiVector(candidates=len(lengths)).build(documents)
    assert search(probed, ids, queries, depth) == search(MultiVector().build(documents), ids, queries, depth)


def test_candidates_are_of_the_querys_topic_and_scores_are_exact(topical):
    documents, queries, of_documents, of_queries = topical
    built = ProbedMultiVector(candidates=30, probe=2, centroids=12).build(documents)
    scores, rows = built.nearest(queries, 10)
    exact = queries.scores(documents)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, axis=1), atol=1e-5)
    assert (np.diff(scores) <= 0).all()
    assert (of_documents[rows] == of_queries[:, None]).all()


def test_more_candidates_find_more_and_most_is_found_with_few(topical):
    documents, queries, *_ = topical
    best = [set(row) for row in MultiVector().build(documents).nearest(queries, 10)[1].tolist()]

    def recall(candidates):
        built = ProbedMultiVector(candidates=candidates).build(documents)
        found = built.nearest(queries, 10)[1].tolist()
        return np.mean([len(one & set(row)) for one, row in zip(best, found, strict=True)]) / 10

    few, more, every = recall(10), recall(60), recall(300)
    assert few < more <= every == 1
    assert more > 0.9


def test_a_depth_beyond_the_candidates_is_still_filled(topical):
    documents, queries, *_ = topical
    built = ProbedMultiVector(candidates=5).build(documents)
    _, rows = built.nearest(queries, 50)
    assert rows.shape == (12, 50)
    assert all(len(set(row)) == 50 for row in rows.tolist())
    assert built.nearest(queries, 1_000)[1].shape == (12, 300)


def test_a_list_has_each_document_with_a_vector_in_the_cluster_once(topical):
    documents, *_ = topical
    built = ProbedMultiVector(centroids=7).build(documents)
    distances = ((documents.vectors[:, None] - built.centroids) ** 2).sum(-1)
    owner = np.repeat(np.arange(300), documents.lengths)
    for cluster, nearest in enumerate(np.arange(7)):
        found = built.listed[built.starts[cluster] : built.starts[cluster + 1]]
        assert found.tolist() == sorted(set(owner[distances.argmin(axis=1) == nearest].tolist()))


def test_the_same_seed_gives_the_same_index(topical):
    documents, *_ = topical
    one, other = (ProbedMultiVector(seed=4).build(documents) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, other.centroids)
    np.testing.assert_array_equal(one.listed, other.listed)
    assert not np.array_equal(ProbedMultiVector(seed=5).build(documents).centroids, one.centroids)


def test_no_vectors_at_all():
    documents = MultiVectors(np.zeros(3, dtype=np.int64), np.empty((0, 4), np.float32))
    scores, rows = ProbedMultiVector(candidates=1).build(documents).nearest(documents, 2)
    assert scores.tolist() == [[0, 0]] * 3
    assert rows.shape == (3, 2)


def test_vectors_that_are_not_finite_are_told(topical):
    documents = MultiVectors(np.array([1, 1]), np.array([[1, np.nan], [1, 0]], np.float32))
    with pytest.raises(InputError, match="is not finite; the model has diverged in training"):
        ProbedMultiVector().build(documents)


# On disk


@pytest.fixture
def saved(topical, tmp_path):
    ProbedMultiVector(centroids=9).build(topical[0]).save(tmp_path)
    return tmp_path


def test_what_is_saved_is_loaded(saved, topical):
    documents, queries, *_ = topical
    loaded, built = ProbedMultiVector(centroids=9).load(saved), ProbedMultiVector(centroids=9).build(documents)
    assert (loaded.size, loaded.bytes) == (built.size, built.bytes)
    assert loaded.bytes > MultiVector().build(documents).bytes
    for one, other in zip(loaded.nearest(queries, 7), built.nearest(queries, 7), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["centroids.npy", "starts.npy", "listed.npy", "vectors.npy"])
def test_a_damaged_file_is_refused(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{name}: cannot be read .*; build the index again: retrodistill index"):
        ProbedMultiVector().load(saved)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("starts", lambda a: a[:-1]), ("starts", lambda a: a[::-1]), ("listed", lambda a: a[1:]),
        ("listed", lambda a: a + 299), ("listed", lambda a: a - 300), ("centroids", lambda a: a[:, 1:]),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(saved, name, change):
    np.save(saved / f"{name}.npy", change(np.load(saved / f"{name}.npy")))
    with pytest.raises(InputError, match="do not fit the vectors; build the index again"):
        ProbedMultiVector().load(saved)
