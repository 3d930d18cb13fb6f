"""A reader's cross-attention equals the model's own, and comes back from the store as scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrodistill.candidates import Candidates
from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging

DOCS = ["storm0", "bread1", "chess2", "comet3"]


@pytest.fixture(scope="module")
def t5(tiny_model, tmp_path_factory):
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0)).save_pretrained(folder)
    return folder


def expected(folder, collection, query, docs):
    """From the attention weights that the model itself gives: their logs differ from the scores by one constant."""
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = T5ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    states, lengths = [], []
    for doc in docs:  # one at a time: no padding that could be wrong
        text = f"question: {collection.queries.text(query)} context: {collection.corpus.text(doc)}"
        inputs = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            states.append(model.encoder(**inputs).last_hidden_state[0])
        lengths.append(len(states[-1]))
    with torch.inference_mode():
        found = model.decoder(
            input_ids=torch.zeros((1, 1), dtype=torch.long),
            encoder_hidden_states=torch.cat(states)[None],
            output_attentions=True,
        )
    logs = torch.stack(found.cross_attentions).log().mean(dim=(0, 1, 2, 3))
    return np.array([part.mean().item() for part in logs.split(lengths)])


def test_scores_are_the_cross_attention_before_the_softmax(t5, collection, tmp_path):
    teacher = build("teacher", f"reader:{t5}")
    rows = {"q-storm0": [(doc, "bm25", place, 0.0, None) for place, doc in enumerate(DOCS, 1)]}
    candidates, store = Candidates.of(rows), ScoreStore(tmp_path)
    (judged,) = judging.judge(candidates, collection, [teacher], store)
    assert judged.asked == 1 and judged.unit == "windows"
    (found,) = judging.read(candidates, collection, [teacher], store)
    wanted = expected(t5, collection, "q-storm0", DOCS)
    assert np.ptp(wanted) > 1e-3
    np.testing.assert_allclose(found - found.mean(), wanted - wanted.mean(), atol=1e-5)
    order = build("teacher", {"kind": "reader", "model": str(t5), "read": "expected_rank"})
    (ranks,) = judging.read(candidates, collection, [order], store)
    np.testing.assert_array_equal(np.argsort(-ranks), np.argsort(-found))
    (again,) = judging.judge(candidates, collection, [teacher], store)
    assert again.stored == again.asked


def test_what_is_no_t5_is_refused(tiny_model, collection):
    judge = build("teacher", f"reader:{tiny_model}").open(collection)
    with pytest.raises(InputError, match=r"is no T5|cannot be loaded"):
        judge._attention("a", ["b"])
    with pytest.raises(InputError, match="no such folder"):
        build("teacher", "reader:/nowhere").check()
