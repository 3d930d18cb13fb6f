import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from retrodistill.collections import Collection, Texts
from retrodistill.errors import InputError
from retrodistill.indexing.bm25 import BM25Index
from retrodistill.indexing.dense import Flat
from retrodistill.indexing.index import save_ids
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.indexed import Indexed, write_index


@pytest.fixture(scope="module")
def whole(tiny_model, collection, tmp_path_factory):
    """A model of its own, and an index made by it."""
    root = tmp_path_factory.mktemp("indexed")
    shutil.copytree(tiny_model, root / "model")
    write_index(Dense(model=str(root / "model"), max_length=32), Flat(), collection, root / "index", {"note": "mine"})
    return root


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to be damaged; the model stays where it is."""
    return Path(shutil.copytree(whole / "index", tmp_path / "index"))


def refusal(folder, collection) -> str:
    with pytest.raises(InputError) as refused:
        Indexed(path=folder).open(collection)
    return str(refused.value)


def test_it_searches_as_the_model_does(whole, collection):
    direct = Dense(model=str(whole / "model"), max_length=32).open(collection).search(collection.queries.ids, 7)
    opened = Indexed(path=whole / "index").open(collection)
    assert opened.search(collection.queries.ids, 7) == direct
    assert opened.identity == Dense(model=str(whole / "model"), max_length=32).open(collection).identity


def test_the_manifest_says_what_it_was_made_of(whole, collection):
    manifest = json.loads((whole / "index" / "manifest.json").read_text())
    assert manifest["retriever"] == Dense(model=str(whole / "model"), max_length=32).model_dump()
    assert (manifest["index"], manifest["corpus"]) == ({"kind": "flat"}, collection.corpus.digest)
    assert (manifest["documents"], manifest["collection"], manifest["note"]) == (24, "topics", "mine")
    assert manifest["details"]["index_bytes"] == 24 * 32 * 4
    assert sorted(path.name for path in (whole / "index").iterdir()) == ["ids.parquet", "index.faiss", "manifest.json"]


def test_it_is_opened_without_encoding_the_corpus(whole, collection, monkeypatch, tmp_path):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path))  # no vectors there
    opened = Indexed(path=whole / "index").open(collection)
    opened.search(collection.queries.ids[:2], 3)
    (only,) = (tmp_path / "vectors").iterdir()
    assert json.loads((only / "about.json").read_text())["role"] == "query"


def test_another_corpus_is_refused(folder):
    other = Collection("other", Texts.documents("other", [("d", "", "storm")]), Texts.queries("other", []), {})
    said = refusal(folder, other)
    assert "was built from 'topics', whose documents differ from those of 'other'" in said


def test_a_changed_model_is_refused(whole, folder, collection, tmp_path):
    model = Path(shutil.copytree(whole / "model", tmp_path / "model"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["retriever"]["model"] = str(model)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert Indexed(path=folder).open(collection).index.size == 24
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert (
        refusal(folder, collection) == f"the model {str(model)!r} has changed since {folder} was built; build it again"
    )
    shutil.rmtree(model)
    assert "there is no such folder" in refusal(folder, collection)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("retriever"),
        lambda manifest: manifest.pop("corpus"),
        lambda manifest: manifest.update(index="flatt"),
        lambda manifest: manifest.update(index={"kind": "flat", "x": 1}),
        lambda manifest: manifest.update(retriever="bm25"),
        lambda manifest: manifest.update(retriever=3),
        lambda manifest: manifest["retriever"].update(max_length="long"),
    ],
)
def test_a_manifest_of_something_else_is_refused(folder, collection, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    said = refusal(folder, collection)
    assert said.startswith(f"{folder / 'manifest.json'}: is no manifest of an index (")
    assert said.endswith("; build it again")


def test_a_damaged_manifest_is_refused(folder, collection):
    (folder / "manifest.json").write_text('{"artefact": "in')
    assert "not JSON" in refusal(folder, collection)


def test_a_missing_index_names_the_verb_that_writes_it(tmp_path, collection):
    said = refusal(tmp_path / "none", collection)
    assert f"holds no index; `retrodistill index MODEL --data DIR --out {tmp_path / 'none'}` writes one" in said
    with pytest.raises(InputError, match="holds no index"):
        Indexed(path=tmp_path / "none").check()


def test_damaged_vectors_are_refused(folder, collection):
    content = (folder / "index.faiss").read_bytes()
    (folder / "index.faiss").write_bytes(content[:-100])
    assert "build the index again" in refusal(folder, collection)


def without_checksums(folder):
    """As indexes of before had none."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["checksums"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_bit_that_turned_is_noticed(folder, collection):
    content = bytearray((folder / "index.faiss").read_bytes())
    content[-9] ^= 1
    (folder / "index.faiss").write_bytes(content)
    with pytest.raises(InputError, match=r"index\.faiss: cannot be read as it was written; build the index again"):
        Indexed(path=folder).open(collection)
    without_checksums(folder)
    assert Indexed(path=folder).open(collection).index.size == len(collection.corpus)


def test_vectors_of_another_index_are_refused(folder, collection, tiny_model, tmp_path):
    other = Collection("other", Texts.documents("other", [("d", "", "storm")]), Texts.queries("other", []), {})
    write_index(Dense(model=str(tiny_model)), Flat(), other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "index.faiss", folder)
    assert "index.faiss: cannot be read as it was written" in refusal(folder, collection)
    without_checksums(folder)
    assert "holds 1 vectors for 24 documents; build it again" in refusal(folder, collection)


def test_ids_of_another_index_are_refused(folder, collection):
    ids = pq.read_table(folder / "ids.parquet").column("id").to_pylist()
    save_ids(folder, ids[::-1])
    assert "ids.parquet: cannot be read as it was written" in refusal(folder, collection)
    without_checksums(folder)
    assert "not the documents the index was built from" in refusal(folder, collection)
    (folder / "ids.parquet").unlink()
    assert "build the index again" in refusal(folder, collection)


def test_an_index_is_replaced_but_not_a_folder_of_the_users(folder, collection, whole, tmp_path):
    retriever = Dense(model=str(whole / "model"))
    write_index(retriever, Flat(), collection, folder)
    assert json.loads((folder / "manifest.json").read_text())["retriever"]["max_length"] is None
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(InputError, match="thesis holds something else, which would be replaced"):
        write_index(retriever, Flat(), collection, tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


def test_an_index_of_words_takes_no_vectors(collection, tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"index bm25 accepts text, but dense:.* emits dense; use flat"):
        write_index(Dense(model=str(tiny_model)), BM25Index(), collection, tmp_path / "index")
    assert not (tmp_path / "index").exists()
