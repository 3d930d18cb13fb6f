import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.collections import Texts
from retrodistill.errors import InputError

DOCUMENTS = [("d2", "Title", "body"), ("d1", "", " only text "), ("d3", "Only title", ""), ("d4", "", "  ")]


@pytest.fixture
def corpus():
    return Texts.documents("toy", DOCUMENTS)


def test_order_and_lookup_follow_the_file(corpus):
    assert corpus.ids == ["d2", "d1", "d3", "d4"]
    assert [corpus.row(key) for key in corpus.ids] == [0, 1, 2, 3]
    assert len(corpus) == 4 and "d3" in corpus and "d9" not in corpus


def test_documents_are_rendered_as_beir_renders_them(corpus):
    assert corpus.texts() == ["Title body", "only text", "Only title", ""]
    assert corpus.title("d2") == "Title" and corpus.body("d1") == " only text "


def test_query_is_its_text_untouched():
    queries = Texts.queries("toy", [("q1", " why? ")])
    assert queries.text("q1") == " why? " and queries.title("q1") == ""


@pytest.mark.parametrize(
    "rows", [[2, 0, 0], np.array([3, 1], dtype=np.int32), slice(1, 3), slice(None, None, 2), slice(10, 20), []]
)
def test_texts_of_rows_equal_indexing_all_texts(corpus, rows):
    everything = np.array(corpus.texts(), dtype=object)
    assert corpus.texts(rows) == list(everything[np.asarray(rows, dtype=int) if isinstance(rows, list) else rows])


def test_empty_documents_are_counted(corpus):
    assert corpus.empty == 1


def test_unknown_id_names_collection_kind_and_id(corpus):
    for lookup in (corpus.row, corpus.text, corpus.title, corpus.body):
        with pytest.raises(InputError, match="toy has no document 'd9'"):
            lookup("d9")


def test_double_ids_are_refused():
    with pytest.raises(InputError, match="stands twice"):
        Texts.queries("toy", [("q", "a"), ("q", "b")])


def test_digest_is_sha256_of_lengths_ids_and_texts():
    texts = Texts.documents("toy", [("a", "ü", "b")])
    assert texts.digest == hashlib.sha256(b"1 4 a\xc3\xbc b").hexdigest()


def test_digest_sees_order_ids_and_boundaries():
    variants = [
        [("a", "bc"), ("d", "e")],
        [("d", "e"), ("a", "bc")],
        [("ab", "c"), ("d", "e")],
        [("a", "bcd"), ("e", "e")],
        [("a", "bc")],
    ]
    assert len({Texts.queries("toy", rows).digest for rows in variants}) == len(variants)
    # Only what a model reads counts: title and text are one string to it.
    one, other = Texts.documents("x", [("a", "b c", "d")]), Texts.documents("y", [("a", "b", "c d")])
    assert one.digest == other.digest


def test_a_sequence_reads_what_is_asked_for(corpus, monkeypatch):
    texts, sequence = corpus.texts(), corpus.sequence
    assert len(sequence) == len(texts) and list(sequence) == texts
    assert sequence[1:3] == texts[1:3] and sequence[-1] == texts[-1] and sequence[::2] == texts[::2]
    with pytest.raises(IndexError):
        sequence[len(texts)]
    monkeypatch.setattr(Texts, "texts", lambda self, rows: rows)
    assert sequence[5:9] == slice(5, 9)


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\x0b", "\x1fa", "a\x85b", "a\u00a0b", "a\u2028", "\u3000"])
def test_an_id_with_white_space_is_found(name):
    assert Texts.queries("c", [("plain", "x"), (name, "y")]).spaced() == name


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6))
def test_ids_are_spaced_where_a_line_of_words_could_not_hold_them(name):
    assert (Texts.queries("c", [(name, "y")]).spaced() is None) == (name.split() == [name])
