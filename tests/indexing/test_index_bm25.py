import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from retrodistill.indexing.bm25 import BM25Index, StopWords

DOCUMENTS = [
    "storm wind storm rain",
    "wind bread",
    "bread oven flour bread bread yeast",
    "storm",
    "nothing of the kind here",
]
METHODS = ["lucene", "robertson", "atire", "bm25l", "bm25+"]


def plain(**options):
    return BM25Index(stemmer=None, stopwords=None, **options)


def by_hand(documents, query, k1, b):
    """The formula of Lucene's BM25Similarity, each word of the query counted as often as it stands there."""
    split = [document.split() for document in documents]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        score = 0.0
        for word in query.split():
            holding = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
            frequency = words.count(word)
            score += idf * frequency / (frequency + k1 * (1 - b + b * len(words) / mean)) if frequency else 0.0
        scores.append(score)
    return scores


def test_one_score_in_numbers():
    # N 2, mean length 3; "storm" stands in one of two documents, twice among four words:
    # log(1 + 1.5 / 1.5) * 2 / (2 + 0.9 * (0.6 + 0.4 * 4 / 3))
    scores = plain().build(["storm storm wind rain", "bread flour"]).scores("storm")
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [0.6931472 * 2 / 3.02, 0], rtol=1e-6)


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (0, 0.4), (2, 0), (0.5, 1)])
@pytest.mark.parametrize(
    "query", ["storm", "wind bread", "storm storm yeast", "of the nowhere", "storm wind rain bread oven"]
)
def test_scores_are_those_of_lucenes_formula(k1, b, query):
    built = plain(k1=k1, b=b).build(DOCUMENTS)
    np.testing.assert_allclose(built.scores(query), by_hand(DOCUMENTS, query, k1, b), rtol=1e-5, atol=1e-7)


WORDS = st.lists(st.sampled_from(["storm", "wind", "rain", "bread", "oven"]), max_size=8).map(" ".join)


@settings(deadline=None, max_examples=50)
@given(documents=st.lists(WORDS, min_size=1, max_size=8).filter(any), query=WORDS)
def test_any_corpus_empty_documents_included(documents, query):
    np.testing.assert_allclose(
        plain().build(documents).scores(query), by_hand(documents, query, 0.9, 0.4), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_document_without_a_word_of_the_query_scores_0(method):
    built = plain(method=method).build(DOCUMENTS)
    scores = built.scores("storm yeast")
    assert scores[[1, 4]].tolist() == [0, 0]
    assert (scores[[0, 2, 3]] > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_differences_of_scores_are_those_of_bm25s(method):
    import bm25s

    words = [document.split() for document in DOCUMENTS]
    reference = bm25s.BM25(k1=1.5, b=0.75, method=method)
    reference.index(words, show_progress=False)
    expected = reference.get_scores(["storm", "bread"])
    scores = plain(k1=1.5, b=0.75, method=method).build(DOCUMENTS).scores("storm bread")
    np.testing.assert_allclose(scores - scores[4], expected - expected[4], atol=1e-6)


def test_unknown_words_count_for_nothing():
    built = plain().build(DOCUMENTS)
    np.testing.assert_array_equal(built.scores("zebra"), np.zeros(5, dtype=np.float32))
    np.testing.assert_array_equal(built.scores(""), np.zeros(5, dtype=np.float32))
    np.testing.assert_array_equal(built.scores("storm zebra"), built.scores("storm"))


@pytest.mark.parametrize("documents", [[""], ["", "  "], ["the of and", "?!"]])
def test_a_corpus_without_words(documents):
    scores = BM25Index().build(documents).scores("storm")
    assert (scores.tolist(), scores.dtype) == ([0] * len(documents), np.float32)


def test_letter_case_and_punctuation_do_not_matter():
    built = plain().build(["Storm, wind.", "bread"])
    np.testing.assert_array_equal(built.scores("STORM!"), built.scores("storm"))
    assert built.scores("storm")[0] > 0


def test_words_are_stemmed_and_stop_words_left_out_by_default():
    documents = ["storms are baking", "the bread"]
    assert BM25Index().build(documents).scores("storm bake").tolist()[0] > 0
    assert plain().build(documents).scores("storm bake").tolist() == [0, 0]
    assert BM25Index().build(documents).scores("the are").tolist() == [0, 0]
    assert (plain().build(documents).scores("the are") > 0).all()


def test_scores_do_not_depend_on_the_other_queries():
    built = BM25Index().build(DOCUMENTS)
    first = built.scores("storm wind")
    built.scores("bread")
    np.testing.assert_array_equal(built.scores("storm wind"), first)


@pytest.mark.parametrize("stopwords", get_args(StopWords))
def test_every_list_of_stop_words_is_there(stopwords):
    assert BM25Index(stopwords=stopwords, stemmer=None).build(["zzyzx", "qwxyz"]).scores("zzyzx")[0] > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stemmer": "englsh"}, "'englsh' has no Snowball stemmer; did you mean 'english'?"),
        ({"stemmer": "klingon"}, "'klingon' has no Snowball stemmer; choose from "),
        ({"stopwords": "klingon"}, "Input should be 'english', "),
        ({"method": "bm26"}, "Input should be 'lucene'"),
        ({"k1": -1}, "greater than or equal to 0"),
        ({"b": 1.5}, "less than or equal to 1"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ValidationError) as refused:
        BM25Index(**options)
    assert told in str(refused.value)
