import json
import shutil

import numpy as np
import pytest
import torch
from elsewhere import printed
from pydantic import ValidationError

from retrodistill.encoders import SpladeEncoder
from retrodistill.errors import InputError
from retrodistill.registry import build
from retrodistill.students.embedded import Embedded
from retrodistill.students.splade import Flops, Sparsity, SpladeStudent

TEXTS = ["storm wind rain", "the bread and the flour of the oven", "chess", "a comet's tail of ice", "", "42 violins"]


def embed(student, model, role, texts=TEXTS):
    return student.embed(model, student.tokenize(model, texts, role), role)


def plain(*asked):
    """Term weights by sentence-transformers in another process, where nothing of ours can be imported.

    Each asked is a model's folder and a role.
    """
    code = f"""
from sentence_transformers import SparseEncoder
for folder, role in {[(str(folder), role) for folder, role in asked]!r}:
    model = SparseEncoder(folder, device="cpu")
    encode = model.encode_query if role == "query" else model.encode_document
    print(encode({TEXTS!r}, convert_to_sparse_tensor=False).tolist())
"""
    done = printed(code)
    return [np.array(json.loads(line)) for line in done.splitlines()]


@pytest.fixture
def table(tmp_path):
    (tmp_path / "idf.json").write_text(json.dumps({"storm": 2.5, "bread": 1, "the": 0.25, "4": 0.5}))
    return tmp_path / "idf.json"


# What it is made of


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("pooling", ["max", "sum", None])
def test_embed_is_encode_with_gradients(tiny_splade, role, pooling):
    from sentence_transformers import SparseEncoder

    library = SparseEncoder(str(tiny_splade), device="cpu")
    library[1].pooling_strategy = pooling or "max"
    student = SpladeStudent(model=str(tiny_splade), pooling=pooling)
    found = embed(student, student.load("cpu"), role).values
    assert found.requires_grad
    torch.testing.assert_close(
        found.detach(), library.encode(TEXTS, convert_to_sparse_tensor=False), rtol=1e-5, atol=1e-5
    )
    assert 0 < (found > 0).float().mean() < 0.9


def test_dropout_and_length_are_those_asked_for(tiny_splade):
    student = SpladeStudent(model=str(tiny_splade), dropout=0.25, max_length=5)
    model = student.load("cpu")
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    assert [len(tokens) for tokens in student.tokenize(model, ["storm " * 9, "storm"], "document")] == [5, 3]


def test_the_heaviest_terms_alone_are_kept_and_taught(tiny_splade):
    whole = SpladeStudent(model=str(tiny_splade))
    student = SpladeStudent(model=str(tiny_splade), top_k=3)
    found = embed(student, student.load("cpu"), "query").values
    every = embed(whole, whole.load("cpu"), "query").values
    for row, all_terms in zip(found, every, strict=True):
        best = all_terms.sort(descending=True).values[:3]
        torch.testing.assert_close(row[row > 0].sort(descending=True).values, best)
        assert (row > 0).sum() == 3 < (all_terms > 0).sum()
    assert found.sum().requires_grad


def test_scores_are_inner_products_of_all_pairs(tiny_splade):
    queries, documents = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0], [0.0, 1.0]])
    scores = SpladeStudent(model=str(tiny_splade)).score(Embedded(queries), Embedded(documents))
    assert scores.tolist() == [[11, 17, 2], [4, 6, 1]]


def test_a_saved_student_is_a_plain_sparse_encoder(tiny_splade, table, tmp_path):
    every = [{}, {"top_k": 4, "pooling": "sum", "max_length": 5}, {"query": "idf", "idf": table}]
    asked, expected = [], []
    for number, options in enumerate(every):
        student = SpladeStudent(model=str(tiny_splade), **options)
        model = student.load("cpu")
        student.save(model, tmp_path / f"saved-{number}")
        assert not list((tmp_path / f"saved-{number}").rglob("*.bin"))
        for role in ("query", "document"):
            asked.append((tmp_path / f"saved-{number}", role))
            expected.append(embed(student, model, role).values.detach().numpy())
    found = plain(*asked)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


# Queries that are not encoded


def test_a_query_has_the_tokens_it_is_written_in(tiny_splade, table):
    student = SpladeStudent(model=str(tiny_splade), query="idf", idf=table)
    model = student.load("cpu")
    vocabulary = model.tokenizer.get_vocab()
    found = embed(student, model, "query", ["storm wind storm", "the bread", "", "42"]).values
    expected = torch.zeros_like(found)
    expected[0, vocabulary["storm"]] = 2.5
    expected[1, vocabulary["the"]], expected[1, vocabulary["bread"]] = 0.25, 1
    expected[3, vocabulary["4"]] = 0.5
    assert torch.equal(found, expected)
    encoded = SpladeStudent(model=str(tiny_splade))
    documents = embed(encoded, encoded.load("cpu"), "document").values
    torch.testing.assert_close(embed(student, model, "document").values, documents)


def test_without_a_table_every_token_weighs_1(tiny_splade):
    student = SpladeStudent(model=str(tiny_splade), query="idf")
    found = embed(student, student.load("cpu"), "query").values
    assert set(found.unique().tolist()) == {0, 1}
    assert found[0].sum() == 3


@pytest.mark.parametrize("train_idf", [True, False])
def test_the_table_learns_where_it_may(tiny_splade, table, train_idf):
    student = SpladeStudent(model=str(tiny_splade), query="idf", idf=table, train_idf=train_idf)
    model = student.load("cpu")
    assert embed(student, model, "query").values.requires_grad == train_idf
    assert embed(student, model, "document").values.requires_grad


def test_a_saved_table_is_never_below_0(tiny_splade, table, tmp_path):
    student = SpladeStudent(model=str(tiny_splade), query="idf", idf=table)
    model = student.load("cpu")
    with torch.no_grad():
        model[0].sub_modules["query"][0].weight[model.tokenizer.get_vocab()["bread"]] = -1
        queries = embed(student, model, "query").values.numpy()
    student.save(model, tmp_path / "saved")
    assert SpladeEncoder(str(tmp_path / "saved")).encode(TEXTS, "query").lengths.tolist() == [1, 1, 0, 0, 0, 1]
    again = SpladeStudent(model=str(tmp_path / "saved"), query="idf")
    np.testing.assert_array_equal(embed(again, again.load("cpu"), "query").values.detach(), queries)
    with pytest.raises(InputError, match="does not encode its queries; add `query: idf`"):
        SpladeStudent(model=str(tmp_path / "saved")).load("cpu")


@pytest.mark.parametrize(
    ("written", "message"),
    [('{"storm": -1}', "weight of 'storm' is -1"), ('{"no token": 1}', "'no token' is no token"), ("[]", "JSON object"),
     ('{"storm": "x"}', "weight of 'storm' is \"x\""), ("{", "not JSON")],
)  # fmt: skip
def test_a_table_that_is_none(tiny_splade, tmp_path, written, message):
    (tmp_path / "idf.json").write_text(written)
    with pytest.raises(InputError, match=message):
        SpladeStudent(model=str(tiny_splade), query="idf", idf=tmp_path / "idf.json").load("cpu")


def test_options_of_a_table_need_one(tiny_splade, table):
    for options in ({"idf": table}, {"train_idf": False}):
        with pytest.raises(InputError, match="add `query: idf`"):
            SpladeStudent(model=str(tiny_splade), **options).check()


# Penalties


def batch(queries, documents):
    made = {"query": Embedded(torch.tensor(queries)), "document": Embedded(torch.tensor(documents))}
    for found in made.values():
        found.values.requires_grad_()
    return made


QUERIES, DOCUMENTS = [[1.0, 0.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0]], [[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "query", "document"),
    [("flops", 2.0**2 + 1.0**2, 0.5**2 + 1.0**2), ("l1", 3.0, 1.5), ("anti_zero", (1 / 4 + 1 / 36) / 2, (1 / 16 + 1) / 2)],
)  # fmt: skip
def test_penalties_by_hand(name, query, document):
    wanted = {"query": 0.5, "document": 0.25, "warmup": 0.5}
    student = build("student", {"kind": "splade", "model": "m", "flops": {"query": 0, "document": 0}, name: wanted})
    found = {penalty.name: penalty for penalty in student.penalties(batch(QUERIES, DOCUMENTS), 0.25)}
    assert {name: penalty.value.item() for name, penalty in found.items()} == pytest.approx(
        {f"{name}_query": query, f"{name}_document": document}
    )
    assert (found[f"{name}_query"].weight, found[f"{name}_document"].weight) == (0.5 / 4, 0.25 / 4)


def test_a_penalty_keeps_the_defaults_of_what_is_not_named():
    for name in ("flops", "l1", "anti_zero"):
        default = getattr(SpladeStudent(model="m"), name).model_dump()
        for option in ("query", "document", "warmup"):
            student = build("student", {"kind": "splade", "model": "m", name: {option: 0.25}})
            assert getattr(student, name).model_dump() == {**default, option: 0.25}
    assert SpladeStudent(model="m").flops.model_dump() == {"query": 3e-4, "document": 1e-4, "warmup": 0.33}


def test_weights_rise_with_the_square_of_the_progress():
    weights = Sparsity(query=8.0, warmup=0.5)
    assert [weights.weight_at("query", progress) for progress in (0, 0.125, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 2, 8, 8, 8]
    assert Sparsity(query=8.0, warmup=0).weight_at("query", 0) == 8


def test_penalties_look_at_the_batch_and_only_where_there_are_some():
    assert SpladeStudent(model="m").looks_across
    assert not SpladeStudent(model="m", flops=Flops(query=0, document=0)).looks_across
    assert SpladeStudent(model="m", flops=Flops(query=0, document=0), l1=Sparsity(document=1)).looks_across
    only = SpladeStudent(model="m", flops=Flops(query=0, document=1.0)).penalties(batch(QUERIES, DOCUMENTS), 0.1)
    assert [penalty.name for penalty in only] == ["flops_document"]
    table = SpladeStudent(model="m", query="idf").penalties(batch(QUERIES, DOCUMENTS), 0.1)
    assert [penalty.name for penalty in table] == ["flops_document"]


def watched(student, vectors, progress=0.0):
    """What is logged of a step of which queries and documents were observed one after another."""
    observed = {}
    for role, found in vectors.items():
        for row in found.values:
            for name, numbers in student.observe(Embedded(row[None]), role).items():
                observed.setdefault(name, []).extend(numbers.tolist())
    return student.watch(observed, progress)


def test_terms_are_counted():
    assert watched(SpladeStudent(model="m"), batch(QUERIES, DOCUMENTS)) == {"query_active": 1.5, "document_active": 1.0}


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_student_without_a_term_has_collapsed(role):
    vectors = {"query": QUERIES, "document": DOCUMENTS} | {role: [[0.0] * 4] * 2}
    with pytest.raises(InputError, match=f"no {role} of the batch has a term left; a lower student.flops.{role}"):
        watched(SpladeStudent(model="m"), batch(vectors["query"], vectors["document"]))


def test_one_text_without_a_term_may_be():
    assert watched(SpladeStudent(model="m"), batch([[0.0] * 4], DOCUMENTS))["query_active"] == 0


def test_a_student_with_every_term_has_collapsed_once_it_should_be_sparse():
    dense = batch([[1.0] * 4] * 2, DOCUMENTS)
    student = SpladeStudent(model="m", flops=Flops(document=1, warmup=0.6))
    assert watched(student, dense, 0.0)["query_active"] == watched(student, dense, 0.59)["query_active"] == 4
    with pytest.raises(InputError, match=r"a query has 100% of all terms.*a higher student.flops.query"):
        watched(student, dense, 0.6)
    with pytest.raises(InputError, match="collapsed"):
        watched(SpladeStudent(model="m"), dense, 0.5)
    assert watched(SpladeStudent(model="m"), dense, 0.49)


@pytest.mark.parametrize("name", ["flops", "l1"])
def test_a_penalty_that_rises_to_the_very_end_hides_no_collapse(name):
    student = build("student", {"kind": "splade", "model": "m", name: {"query": 1, "document": 1, "warmup": 1}})
    dense = batch([[1.0] * 4] * 2, DOCUMENTS)
    assert watched(student, dense, 0.89)
    with pytest.raises(InputError, match="a query has 100% of all terms"):
        watched(student, dense, 0.9)


# What is refused


@pytest.mark.parametrize(
    "options", [{"flops": {"querry": 1}}, {"flops": {"query": -1}}, {"l1": {"warmup": 2}}, {"pooling": "mean"}, {"top_k": 0}]
)  # fmt: skip
def test_options_that_cannot_be(options):
    with pytest.raises(ValidationError):
        build("student", {"kind": "splade", "model": "m", **options})


def test_what_has_no_head_is_refused(tiny_model, tiny_cross_encoder):
    for folder in (tiny_model, tiny_cross_encoder):
        with pytest.raises(InputError, match="without a language-model head; a SPLADE student starts from"):
            SpladeStudent(model=str(folder)).check()


def test_a_sparse_encoder_of_another_make_is_refused(tiny_model, tmp_path):
    from sentence_transformers import SparseEncoder

    SparseEncoder(str(tiny_model), device="cpu").save_pretrained(str(tmp_path / "csr"))
    with pytest.raises(InputError, match="has no SPLADE head that is known here"):
        SpladeStudent(model=str(tmp_path / "csr")).load("cpu")


def test_identity_is_weights_table_and_options_wherever_they_lie(tiny_splade, table, tmp_path):
    shutil.copytree(tiny_splade, tmp_path / "copy")
    options = {"query": "idf", "idf": table}
    identity = SpladeStudent(model=str(tiny_splade), **options).identity
    shutil.copy(table, tmp_path / "same.json")
    same = SpladeStudent(model=str(tmp_path / "copy"), query="idf", idf=tmp_path / "same.json").identity
    assert same == identity
    assert json.loads(json.dumps(identity)) == identity
    (tmp_path / "same.json").write_text('{"storm": 1}')
    other = SpladeStudent(model=str(tmp_path / "copy"), query="idf", idf=tmp_path / "same.json").identity
    assert other != identity
    assert SpladeStudent(model=str(tiny_splade), flops=Flops(query=1), **options).identity != identity


def test_short_form_and_what_it_emits():
    student = build("student", "splade:some/model")
    assert (student.model, student.emits, student.label) == ("some/model", "sparse", "splade:some/model")
