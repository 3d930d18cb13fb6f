import numpy as np
import pytest

from retrodistill.emissions import SparseVectors
from retrodistill.encoders import SpladeEncoder
from retrodistill.errors import InputError

TEXTS = ["storm wind", "", "the bread and the flour of the oven " * 4, "chess", "a comet's tail of ice"]


def dense(vectors):
    block = np.zeros((len(vectors), vectors.dimensions), dtype=np.float32)
    block[np.repeat(np.arange(len(vectors)), vectors.lengths), vectors.terms] = vectors.weights
    return block


def plain(folder, texts, role="document", max_length=None, **options):
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(folder), device="cpu")
    model.max_seq_length = max_length or model.max_seq_length
    encode = model.encode_query if role == "query" else model.encode_document
    return encode(texts, convert_to_sparse_tensor=False, **options).numpy()


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("max_length", [None, 6])
def test_equals_sentence_transformers(tiny_splade, role, max_length):
    encoder = SpladeEncoder(str(tiny_splade), max_length=max_length)
    found = encoder.encode(TEXTS, role)
    assert isinstance(found, SparseVectors)
    assert (found.lengths.dtype, found.terms.dtype, found.weights.dtype) == (np.int64, np.int32, np.float32)
    np.testing.assert_allclose(dense(found), plain(tiny_splade, TEXTS, role, max_length), atol=1e-5)
    assert (found.weights > 0).all()
    assert found.dimensions == encoder.dimensions
    for start, end in zip(found.offsets, found.offsets[1:], strict=False):
        assert (np.diff(found.terms[start:end]) > 0).all()
    assert 0 < len(found.terms) < 0.9 * len(TEXTS) * found.dimensions


def test_prompts(tiny_splade):
    encoder = SpladeEncoder(str(tiny_splade), query_prompt="storm ")
    expected = plain(tiny_splade, ["storm " + text for text in TEXTS])
    np.testing.assert_allclose(dense(encoder.encode(TEXTS, "query")), expected, atol=1e-5)
    assert not np.allclose(dense(encoder.encode(TEXTS, "document")), expected, atol=1e-3)


def test_the_heaviest_terms_alone(tiny_splade):
    encoder = SpladeEncoder(str(tiny_splade), query_top_k=3)
    whole = SpladeEncoder(str(tiny_splade))
    np.testing.assert_allclose(
        dense(encoder.encode(TEXTS, "query")), plain(tiny_splade, TEXTS, max_active_dims=3), atol=1e-5
    )
    assert encoder.encode(TEXTS, "query").lengths.max() == 3
    assert encoder.encode(TEXTS, "document").lengths.max() > 3
    assert encoder.identity != whole.identity


def test_no_text_and_an_empty_text(tiny_splade):
    encoder = SpladeEncoder(str(tiny_splade))
    none = encoder.encode([], "query")
    assert (len(none), len(none.terms), none.dimensions) == (0, 0, encoder.dimensions)
    np.testing.assert_allclose(dense(encoder.encode([""], "query")), plain(tiny_splade, [""]), atol=1e-5)


def test_a_model_that_is_not_compared_by_inner_product_is_refused(tiny_splade, tmp_path):
    from sentence_transformers import SparseEncoder

    SparseEncoder(str(tiny_splade), similarity_fn_name="cosine", device="cpu").save_pretrained(str(tmp_path / "m"))
    with pytest.raises(InputError, match="compares sparse vectors by 'cosine'; only dot can be searched"):
        SpladeEncoder(str(tmp_path / "m")).encode(TEXTS, "query")


def test_another_kind_of_model_is_refused(tiny_model):
    with pytest.raises(InputError, match="is a SentenceTransformer, expected a SparseEncoder"):
        SpladeEncoder(str(tiny_model))


def routed(tiny_splade, folder, weights):
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import Router, SparseStaticEmbedding

    model = SparseEncoder(str(tiny_splade), device="cpu")
    table = SparseStaticEmbedding(model.tokenizer, torch.tensor(weights, dtype=torch.float32))
    router = Router.for_query_document(query_modules=[table], document_modules=list(model.children()))
    SparseEncoder(modules=[router], device="cpu").save_pretrained(str(folder))
    return str(folder)


@pytest.mark.parametrize("role", ["query", "document"])
def test_queries_that_a_table_encodes(tiny_splade, tmp_path, role):
    size = SpladeEncoder(str(tiny_splade)).dimensions
    folder = routed(tiny_splade, tmp_path / "m", np.linspace(0, 2, size))
    encoder = SpladeEncoder(folder)
    np.testing.assert_allclose(dense(encoder.encode(TEXTS, role)), plain(folder, TEXTS, role), atol=1e-5)
    assert encoder.dimensions == size


def test_weights_below_0_are_refused(tiny_splade, tmp_path):
    size = SpladeEncoder(str(tiny_splade)).dimensions
    folder = routed(tiny_splade, tmp_path / "m", np.full(size, -1))
    with pytest.raises(InputError, match="gives a term of a query a weight below 0"):
        SpladeEncoder(folder).encode(["storm"], "query")
