import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.errors import InputError
from retrodistill.indexing import mapped
from retrodistill.indexing.dense import Flat
from retrodistill.indexing.index import search
from retrodistill.indexing.mapped import Mapped


def small_tiles(monkeypatch):
    monkeypatch.setattr(mapped, "_ROWS_A_TILE", 7)
    monkeypatch.setattr(mapped, "_QUERIES_A_TILE", 3)
    monkeypatch.setattr(mapped, "_ROWS", 20)


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 70),
    asked=st.integers(1, 12),
    depth=st.integers(1, 80),
    seed=st.integers(0, 2**32),
    ties=st.booleans(),
)
def test_what_flat_finds_ties_included(size, asked, depth, seed, ties):
    generator = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch)
        draw = (lambda *s: generator.integers(-1, 2, s)) if ties else (lambda *s: generator.standard_normal(s))
        documents, queries = draw(size, 4).astype(np.float32), draw(asked, 4).astype(np.float32)
        ids = [f"d{number}" for number in generator.permutation(size)]
        found = search(Mapped().build(documents), ids, queries, depth)
        expected = search(Flat().build(documents), ids, queries, depth)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        np.testing.assert_allclose(list(one.values()), list(other.values()), atol=1e-5)


def test_many_queries_find_the_same(monkeypatch):
    """Enough of them for rounded products, where the processor has them."""
    small_tiles(monkeypatch)
    generator = np.random.default_rng(0)
    vectors, queries = (generator.standard_normal((size, 16)).astype(np.float32) for size in (500, 200))
    queries.flags.writeable = False
    scores, rows = Mapped().build(vectors).nearest(queries, 30)
    expected_scores, expected_rows = Flat().build(vectors).nearest(queries, 30)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


@pytest.mark.parametrize("width", [5, 16, 37, 384])
def test_results_are_the_same_bits_whatever_is_computed_at_once(monkeypatch, width):
    """On any budget: rounded products or not, however many rows are read at once and queries asked together."""
    generator = np.random.default_rng(width)
    # near to each other, and some twice, so that the last bits of a product decide much
    vectors = (1 + 1e-3 * generator.standard_normal((900, width))).astype(np.float32)
    vectors[500:600] = vectors[:100]
    queries = (1 + 1e-3 * generator.standard_normal((70, width))).astype(np.float32)
    monkeypatch.setattr(mapped, "pays", lambda *_: False)
    scores, rows = Mapped().build(vectors).nearest(queries, 40)
    for rounded, tile, asked, read in [(True, 64, 70, 900), (False, 7, 3, 20), (False, 50, 1, 333), (True, 9, 11, 90)]:
        monkeypatch.setattr(mapped, "pays", lambda *_, rounded=rounded: rounded)
        monkeypatch.setattr(mapped, "_ROWS_A_TILE", tile)
        monkeypatch.setattr(mapped, "_QUERIES_A_TILE", tile)
        monkeypatch.setattr(mapped, "_ROWS", read)
        for start in range(0, len(queries), asked):
            found = Mapped().build(vectors).nearest(queries[start : start + asked], 40)
            np.testing.assert_array_equal(found[0], scores[start : start + asked])
            np.testing.assert_array_equal(found[1], rows[start : start + asked])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_vectors_on_disk_are_read_and_not_mapped(tmp_path, monkeypatch, dtype):
    small_tiles(monkeypatch)
    generator = np.random.default_rng(0)
    vectors, queries = generator.standard_normal((53, 8)).astype(dtype), generator.standard_normal((5, 8))
    np.save(tmp_path / "vectors.npy", vectors)
    here = Mapped().build(vectors.astype(np.float32)).nearest(queries, 11)
    opened = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    for index in (Mapped().build(opened), Mapped().load(tmp_path)):
        for one, other in zip(index.nearest(queries, 11), here, strict=True):
            np.testing.assert_array_equal(one, other)
    # A part of a map begins elsewhere in the file than the map.
    part = Mapped().build(opened[10:40]).nearest(queries, 4)
    np.testing.assert_array_equal(part[1], Flat().build(vectors[10:40]).nearest(queries, 4)[1])
    assert Mapped().build(opened).bytes == 0


def test_memory_decides_how_much_is_read_at_once(monkeypatch):
    read = []
    blocks = mapped._blocks
    monkeypatch.setattr(mapped, "_blocks", lambda vectors, rows: read.append(rows) or blocks(vectors, rows))
    vectors = np.ones((10, 1_000), dtype=np.float32)
    for memory in ("1MB", "80MB", "10GB"):
        Mapped(memory=memory).build(vectors).nearest(vectors[:1], 1)
    assert read == [2_048, 10_000, 16_384]  # 8,000 bytes a row, of which no fewer than a tile's are read


def test_an_index_is_kept_and_opened(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    Mapped().build(vectors).save(tmp_path)
    loaded = Mapped().load(tmp_path)
    assert loaded.size == 30
    np.testing.assert_array_equal(loaded.nearest(vectors[:3], 5)[1], Flat().build(vectors).nearest(vectors[:3], 5)[1])
    whole = (tmp_path / "vectors.npy").read_bytes()
    (tmp_path / "vectors.npy").write_bytes(whole[:-40])
    with pytest.raises(InputError, match="cannot be read; build the index again"):
        Mapped().load(tmp_path)
    with pytest.raises(InputError, match="cannot be read; build the index again"):
        Mapped().load(tmp_path / "nowhere")


def test_what_is_no_number_and_what_does_not_fit():
    vectors = np.ones((5, 4), dtype=np.float32)
    with pytest.raises(InputError, match="holds vectors of 4 dimensions, the query has 3"):
        Mapped().build(vectors).nearest(vectors[:, :3], 1)
    vectors[3, 1] = np.nan
    with pytest.raises(InputError, match="is NaN; the model has diverged"):
        Mapped().build(vectors).nearest(np.ones((1, 4)), 1)
