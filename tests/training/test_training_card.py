import re

import pytest
import yaml

from retrodistill.students.cross_encoder import CrossEncoderStudent
from retrodistill.students.dense import DenseStudent
from retrodistill.training.card import card

MANIFEST = {
    "student": {"kind": "dense", "model": "some/model", "layers": (0, 2)},
    "inputs": {"losses": [{"kind": "kl", "temperature": 2.0}]},
    "options": {"epochs": 3},
    "seed": 7,
    "collection": "scifact",
    "queries": 809,
    "pairs": 8_090,
    "positives": 919,
    "judged": 8_000,
    "steps": 304,
    "teachers": ["bm25"],
    "recipe": "mine",
}


def parts(text):
    """The front matter, and the Markdown behind it."""
    _, head, body = re.split(r"^---\n", text, maxsplit=2, flags=re.M)
    return yaml.safe_load(head), body


def test_the_hub_can_read_what_it_is():
    head, _ = parts(card(DenseStudent(model="some/model@v1"), MANIFEST))
    assert head["library_name"] == "sentence-transformers"
    assert head["pipeline_tag"] == "sentence-similarity"
    assert head["base_model"] == "some/model"
    assert {"sentence-transformers", "retrodistill"} <= set(head["tags"])
    head, _ = parts(card(CrossEncoderStudent(model="/a/folder"), MANIFEST))
    assert head["pipeline_tag"] == "text-ranking"
    assert "cross-encoder" in head["tags"]
    assert "base_model" not in head  # a path of this machine says nothing to others


def test_it_says_what_it_learnt_from_and_is_worth():
    text = card(DenseStudent(model="some/model"), MANIFEST, {"nDCG@10": 0.71234, "R@100": 0.9}, "scifact, test")
    assert "809 queries of scifact with 8,090 candidates, of which 919 are labelled relevant" in text
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0]) == {
        "student": {**MANIFEST["student"], "layers": [0, 2]},
        "losses": MANIFEST["inputs"]["losses"],
        "teachers": ["bm25"],
        "options": {"epochs": 3},
        "seed": 7,
    }
    assert re.search(r"\| nDCG@10 +\| 0\.7123 \|", text)
    assert "Evaluation" not in card(DenseStudent(model="some/model"), MANIFEST)


@pytest.mark.parametrize("student", [DenseStudent(model="m"), CrossEncoderStudent(model="m")])
def test_the_code_is_code(student):
    code = card(student, MANIFEST).split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert {"dense": "SentenceTransformer(", "pairs": "CrossEncoder("}[student.emits] in code


def test_nothing_in_a_name_is_markup():
    hostile = "a`b\n# c <script> [x](y) ---\n```"
    manifest = {**MANIFEST, "recipe": hostile, "collection": hostile, "teachers": [hostile]}
    manifest["student"] = {"kind": "dense", "model": hostile}
    head, body = parts(card(DenseStudent(model=hostile), manifest, {"nDCG@10": 0.5}, hostile))
    assert "base_model" not in head
    fences = re.findall(r"^(`{3,})(\w*)$", body, flags=re.M)
    assert [language for _, language in fences if language] == ["python", "yaml"]
    outside = re.sub(r"^(`{3,})\w+\n.*?^\1$", "", body, flags=re.M | re.S)
    assert [line for line in outside.splitlines() if line.startswith("#")] == [
        r"# a\`b \# c \<script\> \[x\]\(y\) \-\-\- \`\`\`", "## Use", "## Training", "## Evaluation",
    ]  # fmt: skip
    assert not re.search(r"(?<!\\)<", outside)
