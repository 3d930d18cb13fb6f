import json

import pytest

from retrodistill.collections import Collection, Texts, open_collection, open_folder
from retrodistill.collections import beir as beir_names
from retrodistill.errors import InputError

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "toy")


def make(folder, documents=3):
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": f"text {i}"}) for i in range(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [json.dumps({"_id": f"q{i}", "text": f"query {i}"}) for i in (3, 1, 2)]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(HEADER + "q2\td0\t1\nq3\td0\t0\n", encoding="utf-8")
    (folder / "qrels" / "train.tsv").write_text(HEADER + "q1\td0\t1\n", encoding="utf-8")
    return folder


def test_folder(folder):
    collection = open_collection(str(folder))
    assert collection.name == "toy"
    assert collection.splits == ["train", "test"]
    assert collection.qrels("test") == {"q2": {"d0": 1}, "q3": {"d0": 0}}
    assert collection.query_ids("test") == ["q3", "q2"], "the order of queries.jsonl"
    assert collection.query_ids("train") == ["q1"]
    assert collection.queries.text("q1") == "query 1"
    assert collection.summary() == "toy: 3 documents, queries: 1 train / 2 test"


def test_splits_come_in_the_usual_order_and_dot_files_are_none(folder):
    for name in ("dev", "a-set", "validation", "._test"):
        (folder / "qrels" / f"{name}.tsv").write_text("q1\td0\t1\n")
    assert open_collection(folder).splits == ["train", "dev", "test", "a-set", "validation"]


def test_digest_sees_corpus_and_queries_but_no_judgements(folder, tmp_path):
    digest = open_collection(folder).digest
    (folder / "qrels" / "test.tsv").write_text("q1\td0\t1\n")
    assert open_collection(folder).digest == digest == open_folder(folder, name="other", in_memory=0).digest
    assert open_collection(make(tmp_path / "more", documents=4)).digest != digest


def test_mapped_and_held_agree(folder):
    held, mapped = open_folder(folder), open_folder(folder, in_memory=0)
    assert mapped.corpus.texts() == held.corpus.texts() and mapped.qrels("test") == held.qrels("test")


def test_empty_documents_show_in_the_summary(folder):
    with (folder / "corpus.jsonl").open("a") as stream:
        stream.write('\n{"_id": "d9", "title": "", "text": ""}')
    assert open_collection(folder).summary().startswith("toy: 4 documents (1 empty)")


def test_unknown_split_names_the_choices(folder):
    with pytest.raises(InputError, match="toy has no split 'tset'; did you mean 'test'"):
        open_collection(folder).qrels("tset")
    with pytest.raises(InputError, match="choose from test, train"):
        open_collection(folder).query_ids("xyz")


def test_without_judgements_there_are_no_splits(folder):
    for file in (folder / "qrels").iterdir():
        file.unlink()
    collection = open_collection(folder)
    assert collection.splits == [] and collection.summary() == "toy: 3 documents, queries: 3 unjudged"
    with pytest.raises(InputError, match=r"toy has no judgements; expected a file qrels/test\.tsv"):
        collection.qrels("test")


def test_qrels_that_name_unknown_documents_name_file_and_line(folder):
    (folder / "qrels" / "test.tsv").write_text(HEADER + "q1\td0\t1\nq1\tnowhere\t1\n")
    with pytest.raises(InputError, match=r"test\.tsv: 1 judgement names .*line 3: document 'nowhere'"):
        open_collection(folder).qrels("test")


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
def test_missing_file_tells_what_a_folder_has(folder, file):
    (folder / file).unlink()
    with pytest.raises(
        InputError, match=rf"no {file}; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv"
    ):
        open_collection(folder)


def test_nested_folder_is_suggested(folder):
    with pytest.raises(InputError, match=f"did you mean {folder}"):
        open_collection(folder.parent)


@pytest.mark.parametrize("source", ["", "nowhere/at/all", "SciFact2", "a\0b", "x" * 5000])
def test_unknown_names(source):
    with pytest.raises(InputError):
        open_collection(source)


def test_unknown_names_suggest_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"no folder 'scifct'.*did you mean 'scifact'"):
        open_collection("scifct")
    with pytest.raises(InputError, match="did you mean 'builtin/pydocs'"):
        open_collection("builtin/pydoc")
    with pytest.raises(InputError, match="12 collections; choose from cqadupstack/android"):
        open_collection("cqadupstack")
    file = tmp_path / "corpus.jsonl"
    file.write_text("")
    with pytest.raises(InputError, match=r"is a file; give the folder that holds corpus\.jsonl"):
        open_collection(file)


def test_beir_name_is_fetched_unless_a_folder_holds_it(tmp_path, monkeypatch):
    fetched = make(tmp_path / "elsewhere")
    monkeypatch.setattr(beir_names, "fetch", lambda name: fetched)
    monkeypatch.chdir(tmp_path)
    assert open_collection("scifact").name == "scifact"
    (tmp_path / "scifact").mkdir()
    assert len(open_collection("scifact").corpus) == 3, "a folder without a corpus does not hide the name"
    make(tmp_path / "quora", documents=1)
    assert len(open_collection("quora").corpus) == 1, "a folder that holds one goes first"


def test_one_document_and_one_query_in_python():
    collection = Collection(
        "one", Texts.documents("one", [("d", "", "x")]), Texts.queries("one", [("q", "y")]), {"test": {"q": {"d": 1}}}
    )
    assert collection.query_ids("test") == ["q"] and collection.summary() == "one: 1 documents, queries: 1 test"
