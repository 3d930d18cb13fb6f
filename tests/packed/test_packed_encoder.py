import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from retrodistill.packed import encoder as packed_encoder
from retrodistill.packed.encoder import PackedEncoder

WORDS, PADDING = 50, 1
COMMON = {"vocab_size": WORDS, "pad_token_id": PADDING, "max_position_embeddings": 80}
SHAPE = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 40, **COMMON}
MODELS = {
    "bert": lambda **options: BertModel(BertConfig(**SHAPE, **options)),
    "bert, relu": lambda **options: BertModel(BertConfig(**SHAPE, hidden_act="relu", **options)),
    "bert, one layer": lambda **options: BertModel(BertConfig(**{**SHAPE, "num_hidden_layers": 1}, **options)),
    "roberta": lambda **options: RobertaModel(RobertaConfig(**SHAPE, **options)),
    "xlm-roberta": lambda **options: XLMRobertaModel(XLMRobertaConfig(**SHAPE, **options)),
    "mpnet": lambda **options: MPNetModel(MPNetConfig(**SHAPE, **options)),
    "distilbert": lambda **options: DistilBertModel(
        DistilBertConfig(dim=24, n_heads=3, n_layers=3, hidden_dim=40, **COMMON, **options)
    ),
}  # fmt: skip
LENGTHS = [7, 1, 2, 33, 7, 60, 1, 20, 33]


def made(kind):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    with torch.no_grad():
        for weight in model.parameters():  # far from the start, where all layers do next to nothing
            weight.add_(torch.randn_like(weight) * 0.2)
    return model


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return made(request.param)


def texts(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(2, WORDS, length) for length in lengths]


def segments(lengths):
    return [np.arange(length) * 2 // length for length in lengths]


@pytest.mark.parametrize("last_layer", ["all", "first"])
def test_batches_of_any_number_of_tokens_meet_few_sizes_of_products(monkeypatch, last_layer):
    """Since oneDNN keeps what it compiles for each."""
    met, product = set(), packed_encoder._product

    def counted(*args):
        multiply = product(*args)
        return lambda states: met.add(len(states)) or multiply(states)

    monkeypatch.setattr(packed_encoder, "_product", counted)
    packed = PackedEncoder.of(made("bert"))
    for tokens in range(1, 80):
        packed.hidden(texts([tokens, 3]), last_layer=last_layer)
    assert met == {64, 128}


@torch.inference_mode()
def padded(model, tokens, types=None):
    """Hidden states by transformers, in one padded batch."""
    width = max(map(len, tokens))
    ids = torch.full((len(tokens), width), PADDING)
    mask = torch.zeros(len(tokens), width, dtype=torch.long)
    kinds = torch.zeros(len(tokens), width, dtype=torch.long)
    for row, text in enumerate(tokens):
        ids[row, : len(text)], mask[row, : len(text)] = torch.from_numpy(text), 1
        if types is not None:
            kinds[row, : len(text)] = torch.from_numpy(types[row])
    options = {} if types is None else {"token_type_ids": kinds}
    states = model(input_ids=ids, attention_mask=mask, **options).last_hidden_state
    return [row[: len(text)] for row, text in zip(states, tokens, strict=True)]


def near(found, expected, tolerance=1e-5):
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_hidden_states_are_those_of_the_padded_forward(model):
    tokens = texts(LENGTHS)
    expected = torch.cat(padded(model, tokens))
    found = PackedEncoder.of(model).hidden(tokens)
    near(found, expected)
    assert expected.std() > 0.1
    assert not found.requires_grad


def test_first_is_the_first_token_of_all(model):
    tokens, packed = texts(LENGTHS), PackedEncoder.of(model)
    starts = np.cumsum([0, *LENGTHS[:-1]])
    first = packed.hidden(tokens, last_layer="first")
    assert first.shape == (len(LENGTHS), packed.width)
    near(first, packed.hidden(tokens)[starts])


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_text_does_not_depend_on_its_company(lengths, seed):
    packed, tokens = PackedEncoder.of(made("bert")), texts(lengths, seed)
    alone = torch.cat([packed.hidden([text]) for text in tokens])
    near(packed.hidden(tokens), alone)


def test_order_does_not_matter(model):
    tokens, packed = texts(LENGTHS), PackedEncoder.of(model)
    backwards = packed.hidden(tokens[::-1]).split(LENGTHS[::-1])
    near(torch.cat(backwards[::-1]), packed.hidden(tokens))


@pytest.mark.parametrize("kind", ["bert"])
def test_segments(kind):
    model, tokens, types = made(kind), texts(LENGTHS), segments(LENGTHS)
    expected = torch.cat(padded(model, tokens, types))
    packed = PackedEncoder.of(model)
    near(packed.hidden(tokens, types), expected)
    near(packed.hidden(tokens[::-1], types[::-1], "first")[0], expected[sum(LENGTHS[:-1])])
    assert (packed.hidden(tokens) - expected).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
def test_a_text_may_spell_out_the_padding_token(kind):
    model, tokens = made(kind), texts([6, 4])
    tokens[0][2] = PADDING
    near(PackedEncoder.of(model).hidden(tokens), torch.cat(padded(model, tokens)))


def test_bf16_is_near(model):
    tokens = texts(LENGTHS)
    exact = PackedEncoder.of(model).hidden(tokens)
    rough = PackedEncoder.of(model, "bf16").hidden(tokens)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.05
    assert torch.cosine_similarity(rough, exact).min() > 0.99


def test_packed_weights_of_onednn_give_the_same(model, monkeypatch):
    tokens = texts(LENGTHS)
    exact = PackedEncoder.of(model).hidden(tokens)
    monkeypatch.setattr(packed_encoder, "onednn_is_faster", lambda: True)
    packed = PackedEncoder.of(model)
    near(packed.hidden(tokens), exact)
    near(packed.hidden(tokens, last_layer="first"), exact[np.cumsum([0, *LENGTHS[:-1]])])


def test_the_encoder_below_a_head_is_found():
    config, tokens = BertConfig(**SHAPE), texts(LENGTHS)
    for head in (BertForMaskedLM, BertForSequenceClassification):
        model = head(config).eval()
        near(PackedEncoder.of(model).hidden(tokens), torch.cat(padded(model.base_model, tokens)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_any_precision_are_computed_with_in_32_bits(dtype):
    model, tokens = made("bert").to(dtype), texts(LENGTHS)
    found = PackedEncoder.of(model).hidden(tokens)
    near(found, torch.cat(padded(model.float(), tokens)))


def test_it_keeps_the_weights_that_it_was_made_of():
    model, tokens = made("bert"), texts(LENGTHS)
    packed = PackedEncoder.of(model)
    before = packed.hidden(tokens)
    model.double()
    near(packed.hidden(tokens), before, 0)


def test_what_is_not_known_is_left_alone():
    assert PackedEncoder.of(ElectraModel(ElectraConfig(**SHAPE, embedding_size=24))) is None
    assert PackedEncoder.of(torch.nn.Linear(2, 2)) is None
    assert PackedEncoder.of(BertModel(BertConfig(**SHAPE, is_decoder=True))) is None
    assert PackedEncoder.of(BertModel(BertConfig(**{**SHAPE, "num_hidden_layers": 0}))) is None

    class BertModelOfOurs(BertModel):
        pass

    assert PackedEncoder.of(BertModelOfOurs(BertConfig(**SHAPE))) is None


def test_layers_that_were_changed_are_left_alone():
    class Adapter(torch.nn.Linear):
        def forward(self, states):
            return super().forward(states) + 1

    model = made("bert")
    model.encoder.layer[1].output.dense = Adapter(40, 24)
    assert PackedEncoder.of(model) is None
    model = made("bert")
    model.embeddings.word_embeddings = type("Adapter", (torch.nn.Embedding,), {})(WORDS, 24)
    assert PackedEncoder.of(model) is None
    model = made("bert")
    model.encoder.layer[0].attention.output.dense.bias = None
    assert PackedEncoder.of(model) is None
    model = made("bert")
    torch.nn.utils.parametrizations.weight_norm(model.encoder.layer[2].attention.self.query)
    assert PackedEncoder.of(model) is None
    model = made("bert")
    model.config._attn_implementation = "flex_attention"
    assert PackedEncoder.of(model) is None


@pytest.mark.parametrize("lengths", [[], [3, 0, 2]])
def test_texts_without_tokens_are_refused(lengths):
    with pytest.raises(ValueError, match=r"expected texts of one token or more, got lengths \["):
        PackedEncoder.of(made("bert")).hidden(texts(lengths))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("last_layer", ["all", "first"])
def test_a_gpu_gives_the_same(model, last_layer):
    tokens = texts(LENGTHS)
    expected = PackedEncoder.of(model.cpu()).hidden(tokens, last_layer=last_layer)
    found = PackedEncoder.of(model.cuda()).hidden(tokens, last_layer=last_layer)
    assert found.is_cuda
    near(found.cpu(), expected, 1e-3)
    model.cpu()
