import json
import shutil

import numpy as np
import pytest
import torch
from elsewhere import printed
from pydantic import ValidationError

from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.students.dense import DenseStudent
from retrodistill.students.embedded import Embedded

TEXTS = ["storm wind rain", "the bread and the flour of the oven", "chess", "a comet's tail of ice", "", "42 violins"]


def configured(tiny_model, folder, **options):
    """A copy of the tiny model with other options in its sentence-transformers configuration."""
    shutil.copytree(tiny_model, folder)
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))
    return str(folder)


def assembled(tiny_model, folder, encoder, normalize=True, **options):
    """The tiny model's tokenizer before another encoder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer

    encoder.save_pretrained(folder / "encoder")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder / "encoder")
    transformer = Transformer(str(folder / "encoder"), max_seq_length=64)
    modules = [
        transformer,
        Pooling(transformer.get_embedding_dimension(), "mean"),
        *([Normalize()] if normalize else []),
    ]
    SentenceTransformer(modules=modules, device="cpu", **options).save_pretrained(str(folder / "model"))
    return str(folder / "model")


def modernbert(tiny_model, folder):
    from transformers import AutoTokenizer, ModernBertConfig, ModernBertModel

    torch.manual_seed(3)
    config = ModernBertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tiny_model)), hidden_size=32, num_hidden_layers=4,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=64, local_attention=2,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
    )  # fmt: skip
    return assembled(tiny_model, folder, ModernBertModel(config))


def t5(tiny_model, folder):
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    torch.manual_seed(3)
    vocabulary = len(AutoTokenizer.from_pretrained(tiny_model))
    config = T5Config(vocab_size=vocabulary, d_model=32, num_layers=4, num_heads=2, d_ff=64, d_kv=16)
    return assembled(tiny_model, folder, T5EncoderModel(config))


def embedded(student, model, texts, role):
    """Vectors with gradients, as training makes them."""
    return student.embed(model, student.tokenize(model, texts, role), role).values


def layers_of(model):
    return model[0].auto_model.encoder.layer


@pytest.fixture(scope="module")
def whole(tiny_model):
    return DenseStudent(model=str(tiny_model)).load("cpu")


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        (None, (0, 1, 2, 3)), (4, (0, 1, 2, 3)), (3, (0, 2, 3)), (2, (0, 3)), (1, (3,)),
        ((0,), (0,)), ([1, 2], (1, 2)), ((3, 0), (3, 0)),
    ],
)  # fmt: skip
def test_the_cut_keeps_these_layers_and_everything_else(tiny_model, whole, layers, kept):
    model = DenseStudent(model=str(tiny_model), layers=layers).load("cpu")
    assert model[0].auto_model.config.num_hidden_layers == len(layers_of(model)) == len(kept)
    for layer, number in zip(layers_of(model), kept, strict=True):
        expected = layers_of(whole)[number].state_dict()
        assert layer.state_dict().keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in layer.state_dict().items())
    others = {name: weight for name, weight in model.state_dict().items() if ".layer." not in name}
    assert others
    assert all(torch.equal(weight, whole.state_dict()[name]) for name, weight in others.items())


def test_layers_are_spread_evenly_over_a_deep_stack():
    from retrodistill.students.cutting import spread

    assert spread(6, 12) == (0, 2, 4, 7, 9, 11)
    assert spread(3, 5) == (0, 2, 4)
    for total in range(1, 30):
        for count in range(1, total + 1):
            chosen = spread(count, total)
            gaps = np.diff(chosen)
            assert len(chosen) == count
            assert chosen[-1] == total - 1
            assert count == 1 or (chosen[0] == 0 and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


@pytest.mark.parametrize("layers", [5, (0, 4), (7,)])
def test_more_layers_than_there_are(tiny_model, layers):
    with pytest.raises(InputError, match=r"^layers: .* asks for more than the 4 layers of .* \(0 to 3\)$"):
        DenseStudent(model=str(tiny_model), layers=layers).load("cpu")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (0, "how many layers"),
        (-1, "how many layers"),
        ([], "how many layers"),
        ([0, -1], "how many layers"),
        ([1, 1], "kept once"),
    ],
)
def test_layers_that_cannot_be(layers, message):
    with pytest.raises(ValidationError, match=message):
        build("student", {"kind": "dense", "model": "m", "layers": layers})


def plain(folder):
    """Vectors by sentence-transformers in another process, where nothing of ours can be imported."""
    code = f"""
from sentence_transformers import SentenceTransformer
print(SentenceTransformer({str(folder)!r}, device="cpu").encode({TEXTS!r}).tolist())
"""
    done = printed(code)
    return np.array(json.loads(done))


def test_a_saved_student_is_plain_sentence_transformers(tiny_model, tmp_path):
    student = DenseStudent(model=str(tiny_model), layers=2, max_length=32, dropout=0.3)
    model = student.load("cpu")
    student.save(model, tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("*.bin"))
    with torch.no_grad():
        vectors = embedded(student, model, TEXTS, "document").numpy()
    np.testing.assert_allclose(plain(tmp_path / "saved"), vectors, atol=1e-5)
    again = DenseStudent(model=str(tmp_path / "saved")).load("cpu")
    assert again.max_seq_length == 32
    assert len(layers_of(again)) == 2


def test_layers_of_two_kinds_keep_their_kind(tiny_model, tmp_path):
    # ModernBERT's layers attend globally or locally, as a list in its configuration says.
    student = DenseStudent(model=modernbert(tiny_model, tmp_path), layers=(0, 3))
    model = student.load("cpu")
    student.save(model, tmp_path / "saved")
    again = DenseStudent(model=str(tmp_path / "saved")).load("cpu")
    assert again[0].auto_model.config.layer_types == ["full_attention", "full_attention"]
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize("make", [modernbert, t5])
def test_a_first_layer_unlike_the_others_cannot_go(tiny_model, tmp_path, make):
    with pytest.raises(InputError, match=r"layers: \(1, 3\) would not load again.*keep layer 0"):
        DenseStudent(model=make(tiny_model, tmp_path), layers=(1, 3)).load("cpu")


def test_a_model_without_a_stack_of_layers_cannot_be_cut(tiny_model, tmp_path):
    from transformers import AlbertConfig, AlbertModel, AutoTokenizer

    config = AlbertConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tiny_model)), embedding_size=16, hidden_size=32,
        num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    folder = assembled(tiny_model, tmp_path, AlbertModel(config))
    with pytest.raises(InputError, match="no stack of layers is known in a AlbertModel; leave `layers` out"):
        DenseStudent(model=folder, layers=2).load("cpu")


def test_dropout_is_the_models_own_or_the_one_asked_for(tiny_model, tmp_path):
    def rates(model):
        return {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}

    assert rates(DenseStudent(model=str(tiny_model)).load("cpu")) == {0.1}
    assert rates(DenseStudent(model=str(tiny_model), dropout=0.25).load("cpu")) == {0.25}
    still = DenseStudent(model=modernbert(tiny_model, tmp_path), dropout=0.5)
    attention = still.load("cpu")[0].auto_model.layers[0].attn
    assert attention.attention_dropout == 0.5


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.3, False)])
def test_dropout_acts_in_training_alone(tiny_model, dropout, same):
    student = DenseStudent(model=str(tiny_model), dropout=dropout)
    model = student.load("cpu")
    still = embedded(student, model, TEXTS, "query")
    assert torch.equal(embedded(student, model, TEXTS, "query"), still)
    model.train()
    torch.manual_seed(0)
    assert torch.allclose(embedded(student, model, TEXTS, "query"), still, atol=1e-6) == same


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({}, None),
        ({"query": "storm wind ", "document": "flour "}, None),
        ({"query": "storm ", "passage": "flour "}, "query"),
    ],
)
def test_embed_is_encode_with_gradients(tiny_model, tmp_path, role, prompts, default):
    student = DenseStudent(model=configured(tiny_model, tmp_path / "m", prompts=prompts, default_prompt_name=default))
    model = student.load("cpu")
    vectors = embedded(student, model, TEXTS, role)
    assert vectors.requires_grad
    encode = model.encode_query if role == "query" else model.encode_document
    np.testing.assert_allclose(vectors.detach().numpy(), encode(TEXTS), atol=1e-6)
    plain = embedded(student, DenseStudent(model=str(tiny_model)).load("cpu"), TEXTS, role)
    assert torch.allclose(vectors, plain, atol=1e-4) == (not prompts.get(role))


@pytest.mark.parametrize(("similarity", "unit"), [("cosine", True), ("dot", False)])
def test_vectors_of_a_cosine_student_have_unit_length(tiny_model, tmp_path, similarity, unit):
    from transformers import AutoModel

    folder = assembled(
        tiny_model, tmp_path, AutoModel.from_pretrained(tiny_model), normalize=False, similarity_fn_name=similarity
    )
    student = DenseStudent(model=folder)
    model = student.load("cpu")
    with torch.no_grad():
        vectors = embedded(student, model, TEXTS, "document")
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(TEXTS)), atol=1e-6) == unit
    np.testing.assert_allclose(vectors.numpy(), model.encode(TEXTS, normalize_embeddings=unit), atol=1e-6)


def test_scores_are_inner_products_of_all_pairs(tiny_model):
    queries, documents = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0], [0.0, 1.0]])
    scores = DenseStudent(model=str(tiny_model)).score(Embedded(queries), Embedded(documents))
    assert scores.tolist() == [[11, 17, 2], [-4, -6, -1]]


def test_lengths_are_tokens_as_truncated(tiny_model):
    student = DenseStudent(model=str(tiny_model), max_length=8)
    model = student.load("cpu")
    tokens = student.tokenize(model, ["storm", "the storm and the wind", "storm " * 50, ""], "document")
    assert [len(ids) for ids in tokens] == [3, 7, 8, 2]


def test_a_static_embedding_can_learn_but_has_no_layers(tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save_pretrained(
        str(tmp_path / "m")
    )
    student = DenseStudent(model=str(tmp_path / "m"))
    model = student.load("cpu")
    tokens = student.tokenize(model, ["storm", "the storm and the wind", "storm " * 200], "document")
    assert [len(ids) for ids in tokens] == [1, 5, 200]
    vectors = embedded(student, model, TEXTS[:2], "query")
    assert vectors.requires_grad
    np.testing.assert_allclose(vectors.detach().numpy(), model.encode(TEXTS[:2], normalize_embeddings=True), atol=1e-6)
    with pytest.raises(InputError, match="no stack of layers is known in a StaticEmbedding; leave `layers` out"):
        DenseStudent(model=str(tmp_path / "m"), layers=2).load("cpu")


def test_16_bit_weights_learn_in_float32(tiny_model, tmp_path):
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(tiny_model), device="cpu").bfloat16().save_pretrained(str(tmp_path / "half"))
    student = DenseStudent(model=str(tmp_path / "half"))
    model = student.load("cpu")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    student.save(model, tmp_path / "saved")
    assert {weight.dtype for weight in load_file(tmp_path / "saved/model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_a_model_that_compares_by_distance_is_refused(tiny_model, tmp_path, similarity):
    folder = configured(tiny_model, tmp_path / "m", similarity_fn_name=similarity)
    for action in (DenseStudent.check, lambda student: student.load("cpu")):
        with pytest.raises(InputError, match=f"compares vectors by '{similarity}'; a student learns cosine or dot"):
            action(DenseStudent(model=folder))


def test_what_is_no_bi_encoder_is_refused(tiny_cross_encoder, tmp_path):
    for action in (DenseStudent.check, lambda student: student.load("cpu")):
        with pytest.raises(InputError, match="is a CrossEncoder, expected a SentenceTransformer"):
            action(DenseStudent(model=str(tiny_cross_encoder)))
        with pytest.raises(InputError, match="there is no such folder"):
            action(DenseStudent(model=str(tmp_path / "absent")))


def test_texts_longer_than_the_positions_are_refused(tiny_model):
    with pytest.raises(InputError, match="max_length: 65 is longer than the 64 positions"):
        DenseStudent(model=str(tiny_model), max_length=65).load("cpu")


def test_identity_is_weights_and_cut_wherever_they_lie(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "copy")
    identity = DenseStudent(model=str(tiny_model), layers=2).identity
    assert DenseStudent(model=str(tmp_path / "copy"), layers=2).identity == identity
    assert DenseStudent(model=str(tiny_model), layers=3).identity != identity
    assert DenseStudent(model=str(tiny_model), layers=2, dropout=0.0).identity != identity
    assert DenseStudent(model=str(tiny_model), layers=2, max_length=32).identity != identity
    other = DenseStudent(model=str(tiny_model)).load("cpu")
    with torch.no_grad():
        layers_of(other)[0].output.dense.bias.add_(1)
    other.save_pretrained(str(tmp_path / "other"))
    assert DenseStudent(model=str(tmp_path / "other"), layers=2).identity != identity


def test_short_form_and_what_it_emits():
    student = build("student", "dense:some/model")
    assert (student.model, student.emits, student.label) == ("some/model", "dense", "dense:some/model")
