import numpy as np

from retrodistill.collections import Collection, Texts
from retrodistill.mining.filters import DuplicatesOfPositives

TEXTS = {
    "positive": "The storm of May, 1910!",
    "same": "the storm of may 1910",
    "spaced": "  The  storm\nof (May) 1910. ",
    "longer": "The storm of May, 1910! It rained.",
    "folded": "Straße",
    "capitals": "STRASSE",
    "empty": "",
    "marks": "?!",
}


def kept(documents, positives):
    corpus = Texts.documents("toy", [(key, "", text) for key, text in TEXTS.items()])
    collection = Collection("toy", corpus, Texts.queries("toy", []), {})
    found = DuplicatesOfPositives().keep(documents, positives, collection)
    assert (found.dtype, found.shape) == (np.bool_, (len(documents),))
    return [document for document, stays in zip(documents, found, strict=True) if stays]


def test_case_punctuation_and_spaces_do_not_tell_texts_apart():
    assert kept(["same", "spaced", "longer", "empty"], ["positive"]) == ["longer", "empty"]
    assert kept(["capitals", "same"], ["folded"]) == ["same"]


def test_any_positive_counts():
    assert kept(["same", "capitals", "longer"], ["folded", "positive"]) == ["longer"]


def test_title_and_text_are_compared_together():
    corpus = Texts.documents(
        "toy", [("a", "The storm", "of May"), ("b", "", "the storm of May"), ("c", "of May", "the storm")]
    )
    collection = Collection("toy", corpus, Texts.queries("toy", []), {})
    assert DuplicatesOfPositives().keep(["b", "c"], ["a"], collection).tolist() == [False, True]


def test_without_positives_or_documents_nothing_is_dropped():
    assert kept(["same", "empty"], []) == ["same", "empty"]
    assert kept([], ["positive"]) == []


def test_a_positive_that_the_corpus_does_not_hold_is_passed_over():
    assert kept(["same"], ["not there"]) == ["same"]
