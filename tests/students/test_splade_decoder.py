"""SPLADE students made of decoders: every text read twice, adapters merged, plain when saved."""

import json

import numpy as np
import pytest
import torch
from elsewhere import printed
from small_decoder import decoder

from retrodistill.encoders import SpladeEncoder
from retrodistill.errors import InputError
from retrodistill.students.lora import Lora
from retrodistill.students.splade import SpladeStudent
from retrodistill.students.term_bias import _TEXTS

TEXTS = ["storm wind rain", "chess", "storm wind", "rain wind storm"]


@pytest.fixture(scope="module")
def llama(tiny_model, tmp_path_factory):
    return decoder(tiny_model, tmp_path_factory.mktemp("llama"))


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
    student = SpladeStudent(model=llama, echo=echo, start=None)
    model = student.load("cpu")
    assert [len(ids) for ids in student.tokenize(model, TEXTS, "query")] == [n * (1 + echo) for n in (3, 1, 2, 3)]
    found = embed(student, model)
    torch.testing.assert_close(found, by_hand(llama, TEXTS, twice=echo), rtol=1e-5, atol=1e-5)
    assert found.requires_grad


def test_an_echoed_token_is_seen_after_the_whole_text(llama):
    """What follows a text's first token changes what the decoder makes of that token, only where it is read again."""
    student, plain = (SpladeStudent(model=llama, echo=echo, start=None) for echo in (True, False))
    first, second = (embed(plain, plain.load("cpu"), [text]) for text in ("storm", "storm wind"))
    assert (second >= first - 1e-6).all()  # the maximum still holds what the first token said alone
    again = by_hand(llama, ["storm wind"], twice=True)
    torch.testing.assert_close(embed(student, student.load("cpu"), ["storm wind"]), again, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(again, second, atol=1e-3)


def test_a_text_is_cut_before_it_is_repeated(llama):
    student = SpladeStudent(model=llama, echo=True, max_length=2)
    model = student.load("cpu")
    cut, short = student.tokenize(model, ["storm wind rain", "storm wind"], "document")
    assert cut.tolist() == short.tolist()
    assert len(cut) == 4
    assert cut[:2].tolist() == cut[2:].tolist()


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_saved_student_is_plain_and_reads_twice_too(llama, tmp_path, lora):
    if lora is not None:
        pytest.importorskip("peft")
    torch.manual_seed(0)
    student = SpladeStudent(model=llama, echo=True, max_length=8, lora=lora)
    model = student.load("cpu")
    # logits of random weights hardly differ, and are stretched by as much: the rounding of what is merged is too
    near = 1e-5 if lora is None else 5e-5
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
    np.testing.assert_allclose(np.array(json.loads(printed(code))), expected.numpy(), atol=near)
    ours = SpladeEncoder(str(tmp_path / "m")).encode(TEXTS, "document")
    dense = np.zeros(expected.shape, dtype=np.float32)
    for row, (start, stop) in enumerate(zip(ours.offsets[:-1], ours.offsets[1:], strict=True)):
        dense[row, ours.terms[start:stop]] = ours.weights[start:stop]
    np.testing.assert_allclose(dense, expected.numpy(), atol=near)


def test_adapters_alone_learn(llama):
    pytest.importorskip("peft")
    student = SpladeStudent(model=llama, echo=True, lora=Lora(rank=2))
    model = student.load("cpu")
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    biases = [name for name in learning if "lora_" not in name]
    assert len(learning) > 1 and biases == ["1.linear.bias"]  # a number a term
    embed(student, model).sum().backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if name in learning)


def test_a_decoder_begins_with_so_many_terms(llama):
    for start in (8, 20):
        student = SpladeStudent(model=llama, start=start)
        found = embed(student, student.load("cpu"), _TEXTS)
        assert abs(int((found > 0).sum()) - start * len(_TEXTS)) <= 2  # but for rounding at the edge
    plain = SpladeStudent(model=llama, start=None)
    assert (embed(plain, plain.load("cpu"), _TEXTS) > 0).float().mean() > 0.5


def test_terms_are_lowered_by_what_all_texts_share(llama):
    """Against transformers' own logits: less their mean, less each term's mean peak and one number, in one unit."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    causal, tokenizer = AutoModelForCausalLM.from_pretrained(llama), AutoTokenizer.from_pretrained(llama)

    def peaks(texts):
        with torch.no_grad():
            logits = [
                causal(tokenizer(t, truncation=True, max_length=64, return_tensors="pt")["input_ids"]).logits[0]
                for t in texts
            ]
        return torch.stack([(found - found.mean(-1, keepdim=True)).amax(0) for found in logits])

    student = SpladeStudent(model=llama, start=10)
    shared = peaks(_TEXTS)
    above = shared - shared.mean(0)
    lowest = above.flatten().sort(descending=True).values[10 * len(_TEXTS)]
    expected = ((peaks(TEXTS) - shared.mean(0) - lowest) / above.std()).relu().log1p()
    torch.testing.assert_close(embed(student, student.load("cpu")).detach(), expected, rtol=1e-4, atol=1e-5)
    assert expected.any()


def test_without_adapters_the_projection_learns_apart_from_the_embeddings(llama):
    student = SpladeStudent(model=llama)
    model = student.load("cpu")
    embed(student, model).sum().backward()
    weight = model[1].linear.weight
    assert weight.grad.any() and model[1].linear.bias.grad.any()
    assert weight.data_ptr() != model[0].model.get_input_embeddings().weight.data_ptr()


def test_a_saved_student_goes_on_where_it_was(llama, tmp_path):
    student = SpladeStudent(model=llama, echo=True, max_length=8)
    model = student.load("cpu")
    expected = embed(student, model).detach()
    student.save(model, tmp_path / "m")
    again = SpladeStudent(model=str(tmp_path / "m"))
    torch.testing.assert_close(embed(again, again.load("cpu")).detach(), expected, rtol=1e-5, atol=1e-5)


def test_a_start_that_cannot_be_is_told(llama, tiny_splade):
    with pytest.raises(InputError, match="start is for decoders"):
        SpladeStudent(model=str(tiny_splade), start=8).check()
    resolved = SpladeStudent(model=str(tiny_splade)).model_dump()  # as the recipe beside a run has it
    SpladeStudent(**resolved).check()
    with pytest.raises(InputError, match=r"start: 10000 terms, but the vocabulary of the model has \d+; use fewer"):
        SpladeStudent(model=llama, start=10_000).load("cpu")


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
    student = SpladeStudent(model=str(folder), echo=True, max_length=4)
    (ids,) = student.tokenize(student.load("cpu"), ["storm wind rain"], "document")
    storm, wind = tokenizer.convert_tokens_to_ids(["storm", "wind"])
    assert ids.tolist() == [end, storm, wind, storm, wind, end]  # four tokens, two of them special


def test_what_cannot_be_echoed_is_told(llama, tiny_splade):
    with pytest.raises(InputError, match="echo is for decoders"):
        SpladeStudent(model=str(tiny_splade), echo=True).check()
    with pytest.raises(InputError, match=r"max_length: 66 is longer than the 64 positions"):
        SpladeStudent(model=llama, echo=True, max_length=33).check()
