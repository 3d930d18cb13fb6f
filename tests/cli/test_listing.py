"""What `ls` shows of a part's options: types in words, nested ones too."""

from __future__ import annotations

from commands import done


def row(kind, name, option):
    found = [line for line in done("ls", kind, name).stdout.splitlines() if line.startswith(f"| {option} ")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].replace("\\|", "/").strip("|").split("|")]


def test_parts_are_named_by_their_family():
    assert row("retriever", "rerank", "sources")[1] == "list of retriever"
    assert row("retriever", "rerank", "teacher")[1:3] == ["teacher", "(required)"]


def test_options_of_options_have_rows():
    assert row("student", "splade", "flops")[2] == "as below"
    assert row("student", "splade", "flops.warmup")[1:3] == ["number", "0.33"]
    assert row("student", "splade", "flops.query")[2] == "0.0003"
    assert row("loss", "kl", "weight.shape")[1] == "linear / quadratic / cosine"


def test_defaults_are_written_as_a_recipe_has_them():
    assert row("student", "dense", "max_length")[1:3] == ["whole number / null", "null"]
    assert row("language_model", "openai", "answers")[2] == '"logprobs"'
