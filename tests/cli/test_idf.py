"""The table for queries without an encoder: rare tokens weigh more, by the formula."""

from __future__ import annotations

import json
import math

import pytest
from commands import call, done

from retrodistill.students.splade import SpladeStudent


@pytest.fixture
def written(tmp_path, collection_folder, tiny_splade):
    out = tmp_path / "idf.json"
    told = done("idf", "--data", collection_folder, "--model", tiny_splade, "--out", out).output
    assert "weighed by 24 documents" in told
    return out


def test_weights_follow_the_formula(written, collection, tiny_splade):
    table = json.loads(written.read_text())
    tokenizer = SpladeStudent(model=str(tiny_splade)).load("cpu").tokenizer
    assert table.keys() == set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    documents = [set(tokenizer.tokenize(text)) for text in collection.corpus.texts()]
    for token, weight in table.items():
        having = sum(token in tokens for tokens in documents)
        assert weight == pytest.approx(math.log(1 + (24 - having + 0.5) / (having + 0.5)), abs=1e-6)
    assert table["the"] < table["storm"] < max(table.values())


def test_a_student_starts_from_it(written, tiny_splade):
    student = SpladeStudent(model=str(tiny_splade), query="idf", idf=written)
    model = student.load("cpu")
    tokens = model.tokenizer("storm the", add_special_tokens=False)["input_ids"]
    table = json.loads(written.read_text())
    from retrodistill.students.splade import _table

    assert _table(model).weight[tokens].tolist() == pytest.approx([table["storm"], table["the"]], abs=1e-6)


def test_a_model_without_a_head_is_told(tmp_path, collection_folder, tiny_model):
    told = call("idf", "--data", collection_folder, "--model", tiny_model, "--out", tmp_path / "idf.json")
    assert told.exit_code == 2 and "without a language-model head" in told.stderr
    assert not (tmp_path / "idf.json").exists()
