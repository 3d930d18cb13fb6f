"""Tiny models and a tiny collection, made on the spot: no test needs a download."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny matrices gain nothing from more
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Topic words; a document on a topic repeats its words, a query asks with some of them.
TOPICS = {
    "storm": "storm wind rain thunder lightning cloud coast flood",
    "bread": "bread flour yeast oven dough crust loaf bake",
    "chess": "chess knight bishop rook pawn castle king mate",
    "bridge": "bridge steel arch river span cable load pier",
    "violin": "violin string bow tune melody wood bridge sound",
    "comet": "comet orbit tail ice sun dust telescope night",
}


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["RETRODISTILL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def write_collection(folder: Path) -> Path:
    """24 documents, 4 a topic; 18 queries, each with one or two relevant documents."""
    documents, train, test = [], [], []
    queries = []
    for topic, words in TOPICS.items():
        listed = words.split()
        for number in range(4):
            chosen = listed[number : number + 5]
            documents.append(
                {
                    "_id": f"{topic}{number}",
                    "title": topic.title(),
                    "text": f"The {' and the '.join(chosen)} of {topic} {number}.",
                }
            )
        for number in range(3):
            query = f"q-{topic}{number}"
            queries.append({"_id": query, "text": f"{listed[number]} {listed[number + 2]} {topic}"})
            judged = train if number < 2 else test
            judged.append(f"{query}\t{topic}{number}\t2\n")
            if number == 0:
                judged.append(f"{query}\t{topic}{number + 1}\t1\n")
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, lines in (("train", train), ("test", test)):
        (folder / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def collection_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collections") / "topics")


@pytest.fixture(scope="session")
def collection(collection_folder: Path):
    from retrodistill.collections import open_collection

    return open_collection(collection_folder)


def _tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertTokenizerFast

    words = sorted({word for words in TOPICS.values() for word in words.split()} | {*TOPICS, "the", "and", "of"})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *"abcdefghijklmnopqrstuvwxyz0123456789.-",
              *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]  # fmt: skip
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=64), len(vocabulary)


def _configuration(vocabulary: int, **options):
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, **options,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertModel

    torch.manual_seed(0)
    base, folder = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("models") / "tiny"
    tokenizer, vocabulary = _tokenizer()
    tokenizer.save_pretrained(base)
    BertModel(_configuration(vocabulary)).save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=64)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "tiny-cross-encoder"
    tokenizer, vocabulary = _tokenizer()
    tokenizer.save_pretrained(folder)
    BertForSequenceClassification(_configuration(vocabulary, num_labels=1)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare BertForMaskedLM; its bias keeps most terms out of a text, as training does."""
    import torch
    from transformers import BertForMaskedLM

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("models") / "tiny-splade"
    tokenizer, vocabulary = _tokenizer()
    tokenizer.save_pretrained(folder)
    model = BertForMaskedLM(_configuration(vocabulary, initializer_range=0.2))
    with torch.no_grad():
        model.cls.predictions.bias.fill_(-1.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_colbert(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Queries filled with [MASK] to 8 tokens, documents of 24 without full stops and hyphens, vectors of 16."""
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("models") / "tiny-colbert"
    modules = [
        Transformer(str(tiny_model), query_expansion={"strategy": "fixed", "length": 8}, document_length=24),
        Dense(32, 16, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask([".", "-"]),
        Normalize(module_input_name="token_embeddings"),
    ]
    MultiVectorEncoder(modules=modules, device="cpu").save_pretrained(str(folder))
    return folder
