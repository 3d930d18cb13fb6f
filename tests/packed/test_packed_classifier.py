import json
import shutil

import numpy as np
import pytest
import sentence_transformers
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from retrodistill.collections import Collection, Texts
from retrodistill.teachers.cross_encoder import CrossEncoder

QUERIES = {"q1": "storm wind", "q2": "bread", "q3": "a knight takes a bishop and a rook"}
DOCUMENTS = {"short": "storm", "empty": "", "long": "the wind and the rain " * 40, "comet": "comet ice"}
PAIRS = [(query, document) for query in QUERIES for document in DOCUMENTS]
SIZES = {"max_position_embeddings": 64, "num_labels": 1, "pad_token_id": 0}
WIDTH = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64, **SIZES}
MODELS = {
    "bert": lambda words: BertForSequenceClassification(BertConfig(vocab_size=words, **WIDTH)),
    "roberta": lambda words: RobertaForSequenceClassification(
        RobertaConfig(vocab_size=words, type_vocab_size=2, **WIDTH)
    ),
    "xlm-roberta": lambda words: XLMRobertaForSequenceClassification(
        XLMRobertaConfig(vocab_size=words, type_vocab_size=2, **WIDTH)
    ),
    "mpnet": lambda words: MPNetForSequenceClassification(MPNetConfig(vocab_size=words, **WIDTH)),
    "distilbert": lambda words: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=words, dim=32, n_heads=2, n_layers=2, hidden_dim=64, **SIZES)
    ),
    "electra": lambda words: ElectraForSequenceClassification(
        ElectraConfig(vocab_size=words, embedding_size=32, **WIDTH)
    ),
}


@pytest.fixture
def make(tiny_cross_encoder, tmp_path):
    def make(kind, **options):
        torch.manual_seed(0)
        folder = tmp_path / "model"
        shutil.copytree(tiny_cross_encoder, folder)
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        model = MODELS[kind](len(vocabulary))
        with torch.no_grad():
            for weight in model.parameters():  # logits far apart, so that a wrong one shows
                weight.add_(torch.randn_like(weight) * 0.2)
        model.save_pretrained(folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 60}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        collection = Collection(
            "toy", Texts.documents("toy", [(key, "", text) for key, text in DOCUMENTS.items()]),
            Texts.queries("toy", list(QUERIES.items())), {},
        )  # fmt: skip
        return CrossEncoder(model=str(folder), **options).open(collection)

    return make


def predicted(judge):
    model = sentence_transformers.CrossEncoder(judge.options.model, device="cpu")
    model.max_seq_length = judge.model.max_seq_length
    pairs = [(QUERIES[query], DOCUMENTS[document]) for query, document in PAIRS]
    return model.predict(pairs, batch_size=5, activation_fn=torch.nn.Identity(), show_progress_bar=False)


def scores(judge):
    return judge.score(*zip(*PAIRS, strict=True))


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_predict(make, kind):
    judge = make(kind)
    assert (judge.packed is None) == (kind == "electra")  # what is not known goes through sentence-transformers
    expected = predicted(judge)
    np.testing.assert_allclose(scores(judge), expected, atol=1e-4)
    assert np.ptp(expected) > 0.3


def test_pairs_are_cut_as_predict_cuts_them(make):
    judge = make("bert", max_length=10)
    assert judge.packed is not None
    np.testing.assert_allclose(scores(judge), predicted(judge), atol=1e-4)


def test_bf16_is_near(make):
    judge = make("bert", precision="bf16")
    assert judge.packed is not None
    assert 0 < np.abs(scores(judge) - predicted(judge)).max() < 0.1


def test_a_prompt_goes_through_sentence_transformers(make):
    judge = make("bert")
    judge.model.prompts, judge.model.default_prompt_name = {"ask": "storm "}, "ask"
    assert judge.packed is None
    prompted = scores(judge)
    judge.model.default_prompt_name = None
    assert np.abs(prompted - scores(judge)).max() > 1e-3


def test_every_pair_is_tokenised_once(make, monkeypatch):
    judge = make("bert")
    assert judge.packed is not None
    tokenizer, asked = type(judge.model.tokenizer), []
    call = tokenizer.__call__
    monkeypatch.setattr(
        tokenizer, "__call__", lambda self, texts, *a, **k: asked.extend(texts) or call(self, texts, *a, **k)
    )
    monkeypatch.setattr("retrodistill.teachers.cross_encoder.TOKENS_A_BATCH", {"cpu": 50})
    scores(judge)
    assert len(asked) == len(PAIRS)
