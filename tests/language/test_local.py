"""Language models on this machine: equal to a plain forward pass of transformers, in whatever batches."""

import numpy as np
import pytest
import torch
from small_decoder import CHAT, decoder, encoder_decoder

from retrodistill.errors import InputError
from retrodistill.language.local import Transformers
from retrodistill.language.model import Message, Prompt

TEXTS = ["storm wind rain", "chess", "the bread and the flour of the oven", "wind"]
PROMPTS = [Prompt(text) for text in TEXTS]


@pytest.fixture(scope="module")
def llama(tiny_model, tmp_path_factory):
    return decoder(tiny_model, tmp_path_factory.mktemp("llama"), CHAT)


@pytest.fixture(scope="module")
def t5(llama, tmp_path_factory):
    return encoder_decoder(llama, tmp_path_factory.mktemp("t5"))


@pytest.fixture(params=["llama", "t5"])
def name(request):
    return request.getfixturevalue(request.param)


def alone(name):
    """Logits behind a text, and of a text's tokens, by transformers, one text at a time."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    seq2seq = "t5" in name
    model = (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(name).eval()

    def logits(text, said=()):
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            if seq2seq:
                start = torch.tensor([[0, *said]])
                return model(input_ids=torch.tensor([ids]), decoder_input_ids=start).logits[0].log_softmax(-1)
            return model(torch.tensor([[*ids, *said]])).logits[0, len(ids) - 1 :].log_softmax(-1)

    return tokenizer, logits


def test_choices_are_the_log_probabilities_of_what_comes_next(name):
    tokenizer, logits = alone(name)
    found = Transformers(model=name).open().choices(PROMPTS, ["yes", "no", "storm wind"])
    tokens = tokenizer.convert_tokens_to_ids(["yes", "no", "storm"])
    expected = torch.stack([logits(text)[-1, tokens] for text in TEXTS])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert found.dtype == np.float32


def test_likelihood_is_the_mean_over_a_continuations_tokens(name):
    tokenizer, logits = alone(name)
    said = ["chess", "storm wind rain", "", "bread"]
    found = Transformers(model=name).open().likelihood(PROMPTS, said)
    for value, text, continuation in zip(found, TEXTS, said, strict=True):
        ids = tokenizer(continuation, add_special_tokens=False)["input_ids"]
        if not ids:
            assert np.isnan(value)
            continue
        rows = logits(text, ids[:-1])
        assert value == pytest.approx(float(rows[range(len(ids)), ids].mean()), abs=1e-5)


def test_batches_change_nothing(name):
    wide, narrow = Transformers(model=name).open(), Transformers(model=name, batch_tokens=1).open()
    assert wide.identity == narrow.identity
    np.testing.assert_allclose(wide.choices(PROMPTS, ["yes", "no"]), narrow.choices(PROMPTS, ["yes", "no"]), atol=1e-5)
    np.testing.assert_allclose(wide.likelihood(PROMPTS, TEXTS), narrow.likelihood(PROMPTS, TEXTS), atol=1e-5)
    assert wide.generate(PROMPTS, 5) == narrow.generate(PROMPTS, 5)


def test_what_is_said_is_the_likeliest_token_at_each_step(name):
    tokenizer, logits = alone(name)
    (said,) = Transformers(model=name).open().generate([Prompt("storm wind")], 4)
    ids = []
    while len(ids) < 4 and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids.append(int(logits("storm wind", ids)[-1].argmax()))
    assert said == tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_a_chat_is_put_as_the_model_has_it(llama):
    model = Transformers(model=llama).open()
    chat = Prompt((Message("user", "wind rain"),))  # the template puts "storm" before it
    np.testing.assert_allclose(
        model.choices([chat], ["yes", "no"]), model.choices([Prompt("storm wind rain")], ["yes", "no"]), atol=1e-6
    )
    assert model.count_tokens([chat, Prompt("chess")]).tolist() == [3, 1]


def test_what_decides_an_answer_is_in_the_identity(llama, t5):
    identities = [
        Transformers(**options).open().identity
        for options in ({"model": llama}, {"model": t5}, {"model": llama, "precision": "bf16"})
    ]
    assert len({str(identity) for identity in identities}) == 3


def test_what_cannot_be_asked_is_told(tiny_model, llama, t5, tmp_path):
    model = Transformers(model=llama).open()
    with pytest.raises(InputError, match="begin with the same token"):
        model.choices(PROMPTS, ["storm wind", "storm rain"])
    with pytest.raises(InputError, match=r"a prompt has 70 tokens, more than the 64 positions .* lower .* max_words"):
        model.choices([Prompt("storm " * 70)], ["yes", "no"])
    plain = Transformers(model=decoder(tiny_model, tmp_path / "plain")).open()
    with pytest.raises(InputError, match="has no chat template"):
        plain.choices([Prompt((Message("user", "wind"),))], ["yes", "no"])
    with pytest.raises(InputError, match="there is no such GGUF file"):
        Transformers(model=str(tmp_path / "x.gguf")).check()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"cannot be loaded|no weights|safetensors"):
        Transformers(model=str(tmp_path / "broken")).open().choices(PROMPTS, ["yes", "no"])


def test_weights_rounded_once_are_those_that_autocast_rounds(name):
    rounded, plain = (Transformers(model=name, precision=precision).open() for precision in ("bf16", "fp32"))
    inputs = plain._padded([plain._tokens(prompt) for prompt in PROMPTS], left="t5" not in name)
    if "t5" in name:
        inputs["decoder_input_ids"] = torch.zeros((len(PROMPTS), 1), dtype=torch.int64)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        known, found = (one.model(**inputs).logits for one in (plain, rounded))
    assert torch.equal(found, known)
    assert not torch.equal(found.float(), plain.model(**inputs).logits)
    linear = [module for module in rounded.model.modules() if type(module) is torch.nn.Linear]
    assert {module.weight.dtype for module in linear} == {torch.bfloat16}
    assert rounded.model.get_input_embeddings().weight.dtype == torch.float32
