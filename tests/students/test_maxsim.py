import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrodistill.students import maxsim as module
from retrodistill.students.embedded import Embedded
from retrodistill.students.maxsim import maxsim


def packed(texts, width=2):
    """Texts given as lists of vectors."""
    values = torch.tensor([vector for text in texts for vector in text]).reshape(-1, width)
    return Embedded(values, torch.tensor([len(text) for text in texts], dtype=torch.int64))


def naive(queries, documents):
    """One pair after another, each with all its token pairs."""
    rows = []
    for query in queries.values.split(queries.lengths.tolist()):
        pairs = [query @ document.T for document in documents.values.split(documents.lengths.tolist())]
        rows.append(torch.stack([pair.max(dim=1).values.sum() if pair.numel() else pair.sum() for pair in pairs]))
    return torch.stack(rows)


@st.composite
def batches(draw):
    queries, documents = (draw(st.lists(st.integers(0, 6), min_size=1, max_size=5)) for _ in range(2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def embedded(lengths):
        return Embedded(torch.randn(sum(lengths), 3, generator=generator, dtype=torch.float64), torch.tensor(lengths))

    return embedded(queries), embedded(documents), torch.randn(len(queries), len(documents), generator=generator)


def test_by_hand():
    queries = packed([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 1.0]]])
    documents = packed([[[3.0, 1.0], [1.0, 2.0], [-1.0, 0.0]], [[-1.0, -2.0]]])
    # (1, 0): 3, (0, 1): 2; (2, 1): 7 at the first vector. The second document has no other choice.
    assert maxsim(queries, documents).tolist() == [[5.0, -3.0], [7.0, -4.0]]


def test_the_gradient_by_hand():
    queries = packed([[[1.0, 0.0], [0.0, 1.0]]])
    documents = packed([[[3.0, 1.0], [1.0, 2.0], [-1.0, 0.0]]])
    queries, documents = queries.leaf(), documents.leaf()
    (10 * maxsim(queries, documents)).sum().backward()
    assert queries.values.grad.tolist() == [[30.0, 10.0], [10.0, 20.0]]
    assert documents.values.grad.tolist() == [[10.0, 0.0], [0.0, 10.0], [0.0, 0.0]]


@settings(deadline=None, max_examples=40)
@given(batches(), st.sampled_from([1, 8, 10**6]))
def test_values_and_gradients_are_those_of_all_token_pairs(case, at_once):
    queries, documents, weights = case
    found, expected = [], []
    module._SIMILARITIES_AT_ONCE, kept = at_once, module._SIMILARITIES_AT_ONCE
    try:
        for way, kind in ((found, maxsim), (expected, naive)):
            sides = queries.leaf(), documents.leaf()
            scores = kind(*sides)
            (scores * weights).sum().backward()
            way += [scores, *(torch.zeros_like(s.values) if s.values.grad is None else s.values.grad for s in sides)]
    finally:
        module._SIMILARITIES_AT_ONCE = kept
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_float32_gradients_equal_the_naive_ones():
    generator = torch.Generator().manual_seed(0)

    def embedded(lengths):
        values = torch.nn.functional.normalize(torch.randn(sum(lengths), 64, generator=generator), dim=-1)
        return Embedded(values, torch.tensor(lengths))

    queries, documents = embedded([32] * 4), embedded([20, 180, 3, 0, 90, 64])
    gradients = []
    for kind in (maxsim, naive):
        sides = queries.leaf(), documents.leaf()
        kind(*sides).softmax(dim=-1)[:, 1].sum().backward()
        gradients.append([side.values.grad for side in sides])
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    queries, documents = packed([[[0.3, -1.0], [0.8, 0.1]], [[-0.2, 0.5]]]), packed([[[1.0, 0.2], [0.1, -0.7]], []])
    values = [side.values.double().requires_grad_() for side in (queries, documents)]
    assert torch.autograd.gradcheck(
        lambda q, d: maxsim(Embedded(q, queries.lengths), Embedded(d, documents.lengths)), values
    )


@settings(deadline=None, max_examples=40)
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_vectors_within_a_text_does_not_matter(case, random):
    queries, documents, _ = case

    def shuffled(side):
        parts = [part[random.sample(range(len(part)), len(part))] for part in side.values.split(side.lengths.tolist())]
        return Embedded(torch.cat(parts), side.lengths)

    torch.testing.assert_close(maxsim(shuffled(queries), shuffled(documents)), maxsim(queries, documents))


@settings(deadline=None, max_examples=40)
@given(batches(), st.randoms(use_true_random=False))
def test_nor_do_the_documents_around(case, random):
    queries, documents, _ = case
    whole = maxsim(queries, documents)
    order = random.sample(range(len(documents.lengths)), len(documents.lengths))
    parts = documents.values.split(documents.lengths.tolist())
    other = Embedded(torch.cat([parts[place] for place in order]), documents.lengths[order])
    torch.testing.assert_close(maxsim(queries, other), whole[:, order])
    for place, part in enumerate(parts):
        alone = maxsim(queries, Embedded(part, documents.lengths[place : place + 1]))
        torch.testing.assert_close(alone[:, 0], whole[:, place])


def test_what_is_kept_for_the_gradient_is_no_token_pair():
    queries, documents = (Embedded(torch.randn(64 * 8, 4).requires_grad_(), torch.full((64,), 8)) for _ in range(2))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: sizes.append(kept.numel()) or kept, lambda kept: kept):
        maxsim(queries, documents)
    assert max(sizes) == 512 * 64  # a place for each query vector and document; all pairs would be 512 * 512


def test_no_documents_and_no_queries():
    some, none = packed([[[1.0, 0.0]]]), packed([])
    assert maxsim(some, none).shape == (1, 0)
    assert maxsim(none, some).shape == (0, 1)


def test_single_vectors_are_refused():
    with pytest.raises(ValueError, match="these have one"):
        maxsim(Embedded(torch.ones(1, 2)), packed([[[1.0, 0.0]]]))
