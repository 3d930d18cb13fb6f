import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.querying import make_queries
from retrodistill.querying.excerpts import Sentence, Title, sentences
from retrodistill.querying.maker import draw

ABSTRACT = (
    "BACKGROUND: Zinc is given for the common cold by many. Its effect is unclear. "
    "METHODS AND RESULTS We gave zinc lozenges to 100 adults (50 women). DNA Polymerase was not measured, e.g. in blood. "
    "Conclusions: Zinc lozenges shorten the common cold by 2.5 days."
)


def corpus(*documents):
    return Texts.documents("c", documents)


def collection_of(*documents):
    queries = Texts.queries("c", [("own", "a question")])
    return Collection("c", corpus(*documents), queries, {"train": {"own": {documents[0][0]: 2}}})


def test_sentences_lose_the_labels_of_an_abstracts_parts_and_nothing_else():
    assert sentences(ABSTRACT) == [
        "Zinc is given for the common cold by many.",
        "Its effect is unclear.",
        "We gave zinc lozenges to 100 adults (50 women).",
        "DNA Polymerase was not measured, e.g. in blood.",
        "Zinc lozenges shorten the common cold by 2.5 days.",
    ]


@given(st.text())
def test_sentences_are_pieces_of_the_text(text):
    assert all(part and part in text for part in sentences(text) if part)


def test_titles_are_queries_of_other_documents():
    made = make_queries([Title()], collection_of(("a", "Zinc", "x"), ("b", " ", "y"), ("c", "Iron", "z")), 0)
    assert made == [("title-a", "Zinc", "a", "barred"), ("title-c", "Iron", "c", "barred")]


def test_the_last_sentence_comes_first_where_it_is_asked_for():
    made = list(Sentence(each=2, where="last").make(corpus(("a", "", ABSTRACT)), 0))
    assert [query.id for query in made] == ["sentence-0-a", "sentence-1-a"]
    assert made[0].text.startswith("Zinc lozenges shorten")
    assert made[1].text != made[0].text
    assert all(40 <= len(query.text) <= 250 for query in made)


def test_a_documents_sentences_are_drawn_by_its_own_id_whatever_else_there_is():
    documents = [(f"d{n}", "", ABSTRACT) for n in range(20)]
    alone = {query.id: query.text for doc in documents for query in Sentence().make(corpus(doc), 3)}
    together = {query.id: query.text for query in Sentence().make(corpus(*reversed(documents)), 3)}
    assert alone == together
    assert len(set(together.values())) > 1
    assert together != {query.id: query.text for query in Sentence().make(corpus(*documents), 4)}


def test_a_limit_draws_the_same_queries_in_any_order_of_documents():
    documents = [(f"d{n}", f"title {n}", "text") for n in range(50)]
    some = make_queries([Title(limit=10)], collection_of(*documents), 1)
    again = make_queries([Title(limit=10)], collection_of(*reversed(documents)), 1)
    assert len(some) == 10
    assert sorted(some) == sorted(again)
    assert {query.id for query in some} == set(
        sorted((f"title-d{n}" for n in range(50)), key=lambda i: draw(1, i))[:10]
    )


def test_a_corpus_without_titles_has_no_title_queries():
    with pytest.raises(InputError, match=r"queries title: makes none of the documents of c; leave it out"):
        make_queries([Title()], collection_of(("a", "", "text")), 0)


def test_made_queries_join_a_split_and_leave_the_others():
    collection = collection_of(("a", "Zinc", "x"), ("b", "Iron", ABSTRACT))
    made = make_queries([Title(), Sentence()], collection, 0)
    more = collection.with_queries(made, "train")
    assert more.query_ids("train") == ["own", "title-a", "title-b", "sentence-0-b"]
    assert more.qrels("train") == {"own": {"a": 2}, "title-a": {}, "title-b": {}, "sentence-0-b": {"b": 1}}
    assert collection.query_ids("train") == ["own"]
    assert more.queries.text("title-b") == "Iron"
    assert more.barred("title-b") == {"title-b", "b"}
    assert more.barred("sentence-0-b") == {"sentence-0-b"}
    unlabelled = collection.with_queries(make_queries([Sentence(source="unlabelled")], collection, 0), "train")
    assert unlabelled.qrels("train")["sentence-0-b"] == {}
    assert unlabelled.barred("sentence-0-b") == {"sentence-0-b"}
    assert more.digest != collection.digest
    with pytest.raises(InputError, match="has a query 'title-a', and one made"):
        more.with_queries(made, "train")
