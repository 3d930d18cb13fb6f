"""Teachers that ask a language model, over a model whose answers are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from toy_models import Knowing

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.teachers.contests import parsed
from retrodistill.teachers.golden import GOLDEN_DOCUMENT
from retrodistill.teachers.language import TEMPLATES, YesNo, filled


@pytest.fixture
def collection():
    corpus = Texts.documents("c", [("a", "T", "one two three"), ("b", "", "two {query}"), ("c", "", "")])
    return Collection("c", corpus, Texts.queries("c", [("q", "what?")]), {})


def teacher(kind, **options):
    return build("teacher", {"kind": kind, "model": "toy_models:Knowing", "golden": False, **options})


def test_yes_no_is_the_log_odds_of_the_two_answers(collection):
    judge = teacher("yes_no", chat=False, template="Q {query} D {document} ?").open(collection)
    found = judge.score(["q", "q"], ["a", "b"])
    asked = ["Q what? D T one two three ?", "Q what? D two {query} ?"]
    expected = [Knowing.log(text, "yes") - Knowing.log(text, "no") for text in asked]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert judge.model.asked == asked


def test_monot5_asks_as_monot5_was_trained(collection):
    judge = teacher("monot5").open(collection)
    judge.score(["q"], ["a"])
    assert judge.model.asked == ["Query: what? Document: T one two three Relevant:"]
    assert judge.model.choices_asked == ["true", "false"]


def test_graded_is_the_expected_value_of_the_labels(collection):
    judge = teacher("graded", chat=False, template="{query}|{document}", labels=["low", "mid", "high"]).open(collection)
    (found,) = judge.score(["q"], ["a"])
    shares = np.exp([Knowing.log("what?|T one two three", label) for label in ("low", "mid", "high")])
    assert found == pytest.approx((shares @ [0, 1, 2]) / shares.sum(), rel=1e-5)


def test_query_likelihood_asks_how_likely_the_query_is(collection):
    judge = teacher("query_likelihood").open(collection)
    (found,) = judge.score(["q"], ["a"])
    prompt = "Passage: T one two three\n\nPlease write a question based on this passage.\n\nQuestion:"
    assert found == pytest.approx(Knowing.log(prompt, " what?"), rel=1e-6)


def test_a_chat_is_a_turn_of_the_user(collection):
    judge = teacher("yes_no", template="{query} {document}").open(collection)
    judge.score(["q"], ["b"])
    assert judge.model.asked == ["user: what? two {query}"]


def test_what_the_model_failed_at_is_nan(collection):
    judge = teacher("yes_no", chat=False, template="{query} {document} FAIL").open(collection)
    assert np.isnan(judge.score(["q"], ["a"])).all()
    graded = teacher("graded", chat=False, template="{query} {document} FAIL").open(collection)
    assert np.isnan(graded.score(["q"], ["a"])).all()


@pytest.mark.parametrize(
    "kind", ["yes_no", "graded", "query_likelihood", "answer_likelihood", "pairwise", "listwise", "first"]
)
def test_a_teacher_that_likes_the_absurd_document_better_judges_nothing(collection, kind, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"_id": "q", "text": "this"}')

    def ask(liked):
        options = {"golden": True, "model": {"kind": "toy_models:Knowing", "likes": liked}}
        if kind == "answer_likelihood":
            options["answers"] = answers
        if kind in ("listwise", "first", "pairwise"):
            judge = teacher(kind, **options).open(collection)
            return judge.be_sure()
        return teacher(kind, **options).open(collection).score(["q"], ["a"])

    ask("seven to ten days")
    with pytest.raises(
        InputError, match=rf"teacher {kind}:.*railings of a bridge.*Nothing was judged; `golden: false`"
    ):
        ask("bridge in dark green")


def test_what_decides_a_score_is_in_the_identity_and_nothing_else(collection):
    def identity(**options):
        return str(sorted(teacher("yes_no", **options).open(collection).identity.items()))

    plain = identity()
    assert plain == identity(golden=True)
    for other in ({"max_words": 5}, {"chat": False}, {"yes": "Yes"}, {"template": "{query} {document}"}):
        assert identity(**other) != plain
    read = [teacher("pairwise", **o).open(collection).identity for o in ({}, {"read": "win_rate"}, {"pairs": 3})]
    assert read[0] == read[1] == read[2]


def test_templates_are_filled_once():
    assert filled("{query}|{document}|{other}", query="{document}", document="{query}") == "{document}|{query}|{other}"


def test_templates_must_have_a_place_for_the_texts():
    with pytest.raises(ValidationError, match=r"the template lacks \{document\}"):
        YesNo(model="toy_models:Knowing", template="{query}?")
    with pytest.raises(ValidationError, match="is all that the model wants to read; set chat: false"):
        YesNo(model="toy_models:Knowing", template="qwen3_reranker")
    asked = YesNo(model="toy_models:Knowing", template="qwen3_reranker", chat=False)
    assert asked.template == TEMPLATES["qwen3_reranker"].template
    assert (
        YesNo.model_validate(asked.model_dump() | {"model": "toy_models:Knowing"}) == asked
    )  # as a dumped recipe has it


def test_named_templates_bring_their_labels(collection):
    judge = teacher("yes_no", template="bge_reranker_gemma", chat=False).open(collection)
    judge.score(["q"], ["a"])
    (asked,) = judge.model.asked
    assert asked.startswith("A: what?\nB: T one two three\n") and judge.model.choices_asked == ["Yes", "No"]
    other = YesNo(model="toy_models:Knowing", template="bge_reranker_gemma", chat=False, yes="Sure")
    assert (other.yes, other.no) == ("Sure", "No")


@pytest.mark.parametrize(
    ("answer", "ranking", "repairs"),
    [
        ("[2] > [1] > [3]", (1, 0, 2), 0),
        ("[3] > [3] > [1]", (2, 0, 1), 2),  # one twice, one missing
        ("[7] > [2]", (1, 0, 2), 3),  # one that is none, two missing
        ("2, 3, 1", (1, 2, 0), 0),
    ],
)
def test_answers_are_read_and_repaired_by_the_rule(answer, ranking, repairs):
    found = parsed(answer, 3)
    assert (found.ranking, found.repairs, found.answer) == (ranking, repairs, answer)


@pytest.mark.parametrize("answer", ["I cannot say.", "", "[7]"])
def test_an_answer_that_names_no_document_is_no_order(answer):
    assert parsed(answer, 3) is None


@given(st.text(alphabet="[]0123456789> ,x"), st.integers(1, 12))
def test_whatever_is_answered_each_place_stands_once(answer, count):
    found = parsed(answer, count)
    assert found is None or sorted(found.ranking) == list(range(count))


def test_first_reads_the_letters_logits(collection):
    judge = teacher("first", chat=False).open(collection)
    (order,) = judge.order([("q", ("a", "b", "c"))])
    prompt = judge.model.asked[0]
    assert "A T one two three" in prompt and "Query: what?" in prompt
    scores = [Knowing.log(prompt, letter) for letter in "ABC"]
    assert order.scores == pytest.approx(scores, rel=1e-6)
    assert list(order.ranking) == np.argsort(-np.array(scores)).tolist()


def test_golden_document_is_shown_as_any_other():
    assert "seven to ten days" in GOLDEN_DOCUMENT


def test_answer_likelihood_asks_how_likely_the_answer_is(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"_id": "q", "text": "this"}\n')
    corpus = Texts.documents("c", [("a", "", "one")])
    collection = Collection("c", corpus, Texts.queries("c", [("q", "what?"), ("r", "who?")]), {})
    judge = teacher("answer_likelihood", answers=file).open(collection)
    found = judge.score(["q", "r"], ["a", "a"])
    assert found[0] == pytest.approx(Knowing.log("Knowledge: one\n\nQuestion: what?\n\nAnswer:", " this"), rel=1e-6)
    assert np.isnan(found[1])  # nobody knows the answer to it, so it is not judged
    first = judge.identity
    file.write_text('{"_id": "q", "text": "that"}\n')
    assert teacher("answer_likelihood", answers=file).open(collection).identity != first
    file.write_text('{"_id": "s", "text": "that"}\n')
    with pytest.raises(InputError, match="line 1: query 's' is not in c"):
        teacher("answer_likelihood", answers=file).open(collection).score(["q"], ["a"])
    with pytest.raises(InputError, match="no such file"):
        teacher("answer_likelihood", answers=tmp_path / "none").check()
