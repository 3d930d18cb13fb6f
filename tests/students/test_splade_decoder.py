"""SPLADE students made of decoders: every text read twice, adapters merged, plain when saved."""

import json

import numpy as np
import pytest
import torch
from elsewhere import printed
from small_decoder import decoder

from retrodistill.encoders import SpladeEncoder
from retrodistill.errors import InputError
from retrodistill.students import sparse_start
from retrodistill.students.lora import Lora
from retrodistill.students.splade import SpladeStudent

TEXTS = ["storm wind rain", "chess", "storm wind", "rain wind storm"]


@pytest.fixture(scope="module")
def llama(tiny_model, tmp_path_factory):
    return decoder(tiny_model, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def trained(llama, tmp_path_factory):
    """One whose hidden states have something in common, as training gives it to them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("trained")
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] += 3
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(llama).save_pretrained(folder)
    return str(folder)


def embed(student, model, texts=TEXTS, role="document"):
    return student.embed(model, student.tokenize(model, texts, role), role).values


def by_hand(folder, texts, *, twice):
    """`max_t log(1 + relu(logits_t))` by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        logits = model(torch.cat([ids, ids], dim=1) if twice else ids).logits[0]
        found.append(logits.relu().log1p().amax(0))
    return torch.stack(found)


@pytest.mark.parametrize("echo", [True, False])
def test_terms_are_the_pooled_logits_of_the_text_read_twice(llama, echo):
    student = SpladeStudent(model=llama, start=None, echo=echo)
    model = student.load("cpu")
    assert [len(ids) for ids in student.tokenize(model, TEXTS, "query")] == [n * (1 + echo) for n in (3, 1, 2, 3)]
    found = embed(student, model)
    torch.testing.assert_close(found, by_hand(llama, TEXTS, twice=echo), rtol=1e-5, atol=1e-5)
    assert found.requires_grad


def test_an_echoed_token_is_seen_after_the_whole_text(llama):
    """What follows a text's first token changes what the decoder makes of that token, only where it is read again."""
    student, plain = SpladeStudent(model=llama, start=None, echo=True), SpladeStudent(model=llama, start=None)
    first, second = (embed(plain, plain.load("cpu"), [text]) for text in ("storm", "storm wind"))
    assert (second >= first - 1e-6).all()  # the maximum still holds what the first token said alone
    again = by_hand(llama, ["storm wind"], twice=True)
    torch.testing.assert_close(embed(student, student.load("cpu"), ["storm wind"]), again, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(again, second, atol=1e-3)


def test_a_text_is_cut_before_it_is_repeated(llama):
    student = SpladeStudent(model=llama, start=None, echo=True, max_length=2)
    model = student.load("cpu")
    cut, short = student.tokenize(model, ["storm wind rain", "storm wind"], "document")
    assert cut.tolist() == short.tolist()
    assert len(cut) == 4
    assert cut[:2].tolist() == cut[2:].tolist()


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_saved_student_is_plain_and_reads_twice_too(llama, tmp_path, lora):
    if lora is not None:
        pytest.importorskip("peft")
    student = SpladeStudent(model=llama, start=None, echo=True, max_length=8, lora=lora)
    model = student.load("cpu")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and (lora is None or "lora_" in name):
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    expected = embed(student, model.eval()).detach()
    assert not torch.allclose(expected, by_hand(llama, TEXTS, twice=True), atol=1e-2)
    student.save(model, tmp_path / "m")
    code = f"""
from sentence_transformers import SparseEncoder
model = SparseEncoder({str(tmp_path / "m")!r}, device="cpu")
print(model.encode({TEXTS!r}, convert_to_sparse_tensor=False, batch_size=4).tolist())
"""
    np.testing.assert_allclose(np.array(json.loads(printed(code))), expected.numpy(), atol=1e-5)
    ours = SpladeEncoder(str(tmp_path / "m")).encode(TEXTS, "document")
    dense = np.zeros(expected.shape, dtype=np.float32)
    for row, (start, stop) in enumerate(zip(ours.offsets[:-1], ours.offsets[1:], strict=True)):
        dense[row, ours.terms[start:stop]] = ours.weights[start:stop]
    np.testing.assert_allclose(dense, expected.numpy(), atol=1e-5)


def test_adapters_alone_learn(llama):
    pytest.importorskip("peft")
    student = SpladeStudent(model=llama, start=None, echo=True, lora=Lora(rank=2))
    model = student.load("cpu")
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert learning and all("lora_" in name for name in learning)
    embed(student, model).sum().backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if name in learning)


def test_special_tokens_stay_around_both_readings(llama, tmp_path):
    import shutil

    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = tmp_path / "m"
    shutil.copytree(llama, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=["</s>", "$A", "</s>"], special_tokens=[("</s>", end)]
    )
    tokenizer.save_pretrained(folder)
    student = SpladeStudent(model=str(folder), start=None, echo=True, max_length=4)
    (ids,) = student.tokenize(student.load("cpu"), ["storm wind rain"], "document")
    storm, wind = tokenizer.convert_tokens_to_ids(["storm", "wind"])
    assert ids.tolist() == [end, storm, wind, storm, wind, end]  # four tokens, two of them special


def test_what_cannot_be_echoed_is_told(llama, tiny_splade):
    with pytest.raises(InputError, match="echo is for decoders"):
        SpladeStudent(model=str(tiny_splade), echo=True).check()
    with pytest.raises(InputError, match=r"max_length: 66 is longer than the 64 positions"):
        SpladeStudent(model=llama, start=None, echo=True, max_length=33).check()


def test_a_decoder_starts_with_a_few_terms(trained, tmp_path):
    """Its own output weights, and no bias: what is saved loads as any causal language model."""
    dense, student = (
        SpladeStudent(model=trained, echo=True, start=None),
        SpladeStudent(model=trained, echo=True, start=5),
    )
    whole, model = embed(dense, dense.load("cpu")), student.load("cpu")
    sentences = list(sparse_start._SENTENCES)
    with torch.inference_mode():
        active = (embed(student, model, sentences) > 0).sum(1).float()
    assert active.mean().item() == pytest.approx(5, abs=0.6)
    thin = embed(student, model)
    assert (thin > 0).sum() < 0.5 * (whole > 0).sum()
    network = model[0].model
    words = network.get_input_embeddings().weight
    assert network.get_output_embeddings().weight.data_ptr() != words.data_ptr()
    student.save(model, tmp_path / "m")
    # what is left of the toy's logits is the difference of numbers some ten times as large
    torch.testing.assert_close(by_hand(tmp_path / "m", TEXTS, twice=True), thin, rtol=0, atol=1e-4)
    torch.testing.assert_close(embed(student, student.load("cpu")), thin)  # the same whenever it is made


def test_lowered_logits_keep_the_order_of_a_tokens_terms_but_for_the_direction(trained):
    """What is taken away is the same multiple of each output weight's change: differences of terms stay."""
    dense = SpladeStudent(model=trained, start=None).load("cpu")
    thin = SpladeStudent(model=trained, start=5).load("cpu")
    before, after = (model[0].model.get_output_embeddings().weight for model in (dense, thin))
    change = before - after
    torch.testing.assert_close(change, change[:1].expand_as(change), rtol=1e-4, atol=1e-5)


def test_only_decoders_have_a_start(tiny_splade):
    with pytest.raises(InputError, match="start lowers the logits of a decoder"):
        SpladeStudent(model=str(tiny_splade), start=9).check()
    SpladeStudent(model=str(tiny_splade)).check()


def test_logits_that_have_nothing_in_common_are_told(llama):
    with pytest.raises(InputError, match=r"start: the logits of .* have nothing in common.*`start: null`"):
        SpladeStudent(model=llama, start=5).load("cpu")
