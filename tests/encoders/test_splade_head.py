import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retrodistill.encoders import splade_head
from retrodistill.encoders.splade_head import fuse, pooled

TEXTS, TOKENS, WIDTH, TERMS = 5, 9, 16, 203

each_pooling = pytest.mark.parametrize("pooling", ["max", "sum"])


@pytest.fixture(autouse=True, params=[(2**20, 2**10), (50, 7)], ids=["one chunk", "many chunks"])
def _chunks(request, monkeypatch):
    monkeypatch.setitem(splade_head.CELLS, "cpu", request.param[0])
    monkeypatch.setitem(splade_head.TERMS, "cpu", request.param[1])


def made(seed=0, holes=True):
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator) for shape in ((TEXTS, TOKENS, WIDTH), (TERMS, WIDTH), (TERMS,))]
    mask = torch.rand(TEXTS, TOKENS, generator=generator) < (0.6 if holes else 2)
    mask[:, 2] = True
    return [tensor.requires_grad_() for tensor in tensors], mask


def naive(hidden, mask, weight, bias, pooling, logs):
    """As sentence-transformers' SpladePooling does it."""
    weights = ((hidden @ weight.T + bias) * mask[..., None]).relu()
    for _ in range(logs):
        weights = weights.log1p()
    return weights.amax(1) if pooling == "max" else weights.sum(1)


@each_pooling
@pytest.mark.parametrize("logs", [1, 2])
@pytest.mark.parametrize("holes", [True, False])
def test_values_and_gradients_are_those_of_the_logits(pooling, logs, holes):
    (hidden, weight, bias), mask = made(holes=holes)
    upstream = torch.randn(TEXTS, TERMS, generator=torch.Generator().manual_seed(1))
    found, expected = (way(hidden, mask, weight, bias, pooling, logs) for way in (pooled, naive))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found == 0).any()
    gradients = [torch.autograd.grad((way * upstream).sum(), (hidden, weight, bias)) for way in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        assert other.any()


@each_pooling
def test_without_gradients_the_values_are_the_same(pooling):
    (hidden, weight, bias), mask = made()
    with torch.no_grad():
        found = pooled(hidden, mask, weight, bias, pooling)
    torch.testing.assert_close(found, pooled(hidden, mask, weight, bias, pooling))
    assert not found.requires_grad


@each_pooling
def test_a_text_of_which_nothing_counts_has_no_terms_and_gives_no_gradient(pooling):
    (hidden, weight, bias), mask = made()
    mask[1] = False
    found = pooled(hidden, mask, weight, bias, pooling)
    assert not found[1].any()
    found.sum().backward()
    assert not hidden.grad[1].any()
    assert hidden.grad[0].any()


@each_pooling
def test_padding_changes_nothing(pooling):
    (hidden, weight, bias), mask = made(holes=False)
    padded = torch.cat([hidden, 100 * torch.randn(TEXTS, 3, WIDTH)], dim=1)
    more = torch.cat([mask, torch.zeros(TEXTS, 3, dtype=torch.bool)], dim=1)
    found = pooled(padded, more, weight, bias, pooling)
    torch.testing.assert_close(found, pooled(hidden, mask, weight, bias, pooling))


def test_a_projection_without_a_bias():
    (hidden, weight, _), mask = made()
    found = pooled(hidden, mask, weight, None)
    torch.testing.assert_close(found, naive(hidden, mask, weight, 0, "max", 1), rtol=1e-5, atol=1e-5)


def test_bf16_products_give_about_the_same():
    (hidden, weight, bias), mask = made()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pooled(hidden, mask, weight, bias)
    assert found.dtype == torch.float32
    expected = naive(hidden, mask, weight, bias, "max", 1)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    found.sum().backward()
    assert weight.grad.dtype == torch.float32


class Largest(TorchDispatchMode):
    """The size of the largest tensor made inside the block."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        # a sparse matrix holds what it has, not its shape
        sizes = [leaf.values().numel() if leaf.layout == torch.sparse_csr else leaf.numel() for leaf in leaves]
        self.size = max([self.size, *sizes])
        return made


@each_pooling
def test_no_tensor_is_texts_by_tokens_by_terms(pooling, monkeypatch):
    monkeypatch.setitem(splade_head.CELLS, "cpu", 400)
    (hidden, weight, bias), mask = made()
    with Largest() as largest:
        naive(hidden, mask, weight, bias, pooling, 1).sum().backward()
    assert largest.size >= TEXTS * TOKENS * TERMS
    with Largest() as largest:
        pooled(hidden, mask, weight, bias, pooling).sum().backward()
    assert largest.size <= TERMS * WIDTH  # the weight's own gradient; a third of the logits


def test_a_frozen_projection_gets_no_gradient_and_changes_no_other():
    (hidden, weight, bias), mask = made()
    expected = torch.autograd.grad(pooled(hidden, mask, weight, bias).sum(), (hidden, bias))
    frozen = weight.detach()
    pooled(hidden, mask, frozen, bias).sum().backward()
    assert torch.equal(hidden.grad, expected[0])
    assert torch.equal(bias.grad, expected[1])
    assert expected[0].any()
    assert frozen.grad is None


# Fused into a model


@pytest.fixture
def model(tiny_splade):
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(tiny_splade), device="cpu").eval()


SOME = ["storm wind", "the bread and the flour of the oven", "chess", ""]


@each_pooling
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_a_fused_model_encodes_as_before(model, pooling, activation):
    model[1].pooling_strategy, model[1].activation_function = pooling, activation
    expected = model.encode(SOME, convert_to_sparse_tensor=False)
    assert 0 < (expected > 0).float().mean() < 0.9
    state = list(model.state_dict())
    assert fuse(model)
    torch.testing.assert_close(model.encode(SOME, convert_to_sparse_tensor=False), expected, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == state


def test_a_head_that_does_more_to_its_logits_is_left_alone(model):
    network = model[0].auto_model
    own = type(network).forward

    def capped(*args, **kwargs):
        found = own(network, *args, **kwargs)
        found.logits = 2 * torch.tanh(found.logits / 2)
        return found

    network.forward = capped
    expected = model.encode(SOME, convert_to_sparse_tensor=False)
    assert not fuse(model)
    assert torch.equal(model.encode(SOME, convert_to_sparse_tensor=False), expected)


def test_a_model_without_such_a_head_is_left_alone(tiny_model):
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(tiny_model), device="cpu")
    expected = model.encode(SOME, convert_to_sparse_tensor=False)
    assert not fuse(model)
    assert torch.equal(model.encode(SOME, convert_to_sparse_tensor=False), expected)


@pytest.mark.parametrize("options", [{}, {"activation_function": torch.nn.Tanh()}, {"use_residual": True}])
def test_a_projection_that_is_a_module_of_its_own(tiny_model, options):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    torch.manual_seed(0)
    plain = {"activation_function": None, "module_input_name": "token_embeddings", **options}
    modules = [Transformer(str(tiny_model)), Dense(32, 40, **plain), SpladePooling()]
    model = SparseEncoder(modules=modules, device="cpu").eval()
    expected = model.encode(SOME, convert_to_sparse_tensor=False)
    assert fuse(model) == (not options)
    torch.testing.assert_close(model.encode(SOME, convert_to_sparse_tensor=False), expected, rtol=1e-5, atol=1e-5)
    assert 0 < (expected > 0).float().mean() < 1
