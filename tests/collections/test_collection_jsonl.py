import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrodistill.collections.jsonl import read_texts
from retrodistill.errors import InputError, Problems


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["in memory", "mapped"])
def threshold(request):
    return 1 << 20 if request.param == "in memory" else 0


def written(tmp_path, *lines):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


def document(key="d1", title="t", text="x"):
    return json.dumps({"_id": key, "title": title, "text": text})


BROKEN = {
    "malformed JSON": ([document(), '{"_id": "d2", "text": '], "line 2: malformed JSON"),
    "bare word": (["hello"], "line 1: malformed JSON"),
    "endless nesting": (["[" * 100_000], "line 1: malformed JSON"),
    "endless number": (['{"_id": ' + "9" * 5000 + "}"], "line 1: malformed JSON"),
    "a list": (["[1, 2]"], r"line 1: got \[1, 2\], expected an object"),
    "a string": (['"d1"'], 'line 1: got "d1", expected an object'),
    "no id": (['{"text": "x"}'], "line 1: the document has no `_id`"),
    "no text": (['{"_id": "d1", "title": "t"}'], "line 1: the document has no `text`"),
    "id of another type": (['{"_id": 1.5, "text": "x"}'], "line 1: `_id` is 1.5, expected a string"),
    "id true": (['{"_id": true, "text": "x"}'], "line 1: `_id` is true, expected a string"),
    "id null": (['{"_id": null, "text": "x"}'], "line 1: `_id` is null, expected a string"),
    "id empty": (['{"_id": " ", "text": "x"}'], "line 1: `_id` is empty"),
    "text null": (['{"_id": "d1", "text": null}'], "line 1: `text` is null, expected a string"),
    "title a list": (
        ['{"_id": "d1", "title": [], "text": "x"}'],
        r"line 1: `title` is \[\], expected a string or null",
    ),
    "double id": ([document(), "", document()], "line 3: the id 'd1' stands in line 1 already"),
    "double id as a number": (
        [document("7"), '{"_id": 7, "text": "x"}'],
        "line 2: the id '7' stands in line 1 already",
    ),
    "half a surrogate pair": (['{"_id": "d1", "text": "\\ud800"}'], "line 1: an escape such as .*ud800 stands alone"),
    "latin-1": ([document(), b'{"_id": "d2", "text": "\xe9t\xe9"}'], "line 2: not UTF-8 text"),
    "UTF-16": (['{"_id": "d1", "text": "x"}'.encode("utf-16")], "line 1: not UTF-8 text"),
    "empty file": ([], "the file is empty"),
    "blank file": (["", "  ", ""], "the file is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_corpus_names_file_and_line(tmp_path, threshold, cache, case):
    lines, message = BROKEN[case]
    path = written(tmp_path, *lines)
    with pytest.raises(InputError, match=message) as caught:
        read_texts(path, "document", "toy", in_memory=threshold - 1)
    assert str(path) in str(caught.value)
    assert not list(cache.rglob("*.arrow")), "a broken file leaves no converted copy"


@pytest.mark.parametrize("text", ["", "  ", "\\n"])
def test_query_without_text_is_refused(tmp_path, text):
    path = written(tmp_path, '{"_id": "q1", "text": "why"}', f'{{"_id": "q2", "text": "{text}"}}')
    with pytest.raises(InputError, match="line 2: the query 'q2' has an empty `text`"):
        read_texts(path, "query", "toy")


def test_several_mistakes_are_told_together_and_the_list_ends_at_five(tmp_path):
    path = written(tmp_path, "x", document(), '{"_id": "d2"}')
    with pytest.raises(Problems) as caught:
        read_texts(path, "document", "toy")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["line 1", "line 3"]
    path = written(tmp_path, *["x"] * 9)
    with pytest.raises(Problems, match="the first 5 mistakes") as caught:
        read_texts(path, "document", "toy")
    assert len(caught.value.problems) == 5


def test_missing_file_and_folder_and_permission(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"nowhere\.jsonl: there is no such file"):
        read_texts(tmp_path / "nowhere.jsonl", "document", "toy")
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(tmp_path, "document", "toy")
    path = written(tmp_path, document())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"texts\.jsonl: cannot be read \(Permission denied\)"):
        read_texts(path, "document", "toy")


def test_what_is_forgiven(tmp_path, threshold):
    path = written(
        tmp_path,
        b"\xef\xbb\xbf" + document("d1", "t", "one").encode() + b"\r",
        b"\r",
        '{"_id": 2, "title": null, "text": "two", "metadata": {"n": NaN}}\r',
        '{"_id": "d3", "text": "\\u00e9 \\ud83d\\ude00 \u2028 same line"}\r',
        '{"_id": "d 4", "title": "", "text": ""}\r',
    )
    texts = read_texts(path, "document", "toy", in_memory=threshold)
    assert texts.ids == ["d1", "2", "d3", "d 4"]
    assert texts.texts() == ["t one", "two", "é 😀 \u2028 same line", ""]
    assert texts.empty == 1


def test_one_document_is_a_corpus(tmp_path, threshold):
    texts = read_texts(written(tmp_path, document()), "document", "toy", in_memory=threshold)
    assert texts.ids == ["d1"] and texts.texts() == ["t x"]


encodable = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(encodable.filter(str.strip), encodable, encodable),
        min_size=1,
        max_size=20,
        unique_by=lambda row: row[0],
    ),
    ascii_only=st.booleans(),
)
def test_whatever_is_written_is_read_and_mapping_changes_nothing(tmp_path, rows, ascii_only):
    lines = [json.dumps({"_id": i, "title": t, "text": x}, ensure_ascii=ascii_only) for i, t, x in rows]
    path = written(tmp_path, *lines)
    held = read_texts(path, "document", "toy")
    mapped = read_texts(path, "document", "toy", in_memory=0)
    for texts in (held, mapped):
        assert texts.ids == [row[0] for row in rows]
        assert texts.texts() == [f"{t} {x}".strip() for _, t, x in rows]
    assert (held.digest, held.empty) == (mapped.digest, mapped.empty)


def test_large_file_is_converted_once_and_not_held_in_memory(tmp_path, cache):
    rows = 20_000  # several record batches
    path = written(tmp_path, *(document(str(i), f"t{i}", "word " * 40) for i in range(rows)))
    before = pa.total_allocated_bytes()
    texts = read_texts(path, "document", "toy", in_memory=1 << 20)
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 10
    assert len(texts) == rows and texts.title("12345") == "t12345"
    assert texts.texts([19_999, 0, 8192]) == [f"t{i} {'word ' * 40}".strip() for i in (19_999, 0, 8192)]
    assert texts.texts(slice(8190, 8194)) == [texts.text(str(i)) for i in range(8190, 8194)]

    (converted,) = cache.rglob("*.arrow")
    stamp = converted.stat().st_mtime_ns
    again = read_texts(path, "document", "toy", in_memory=1 << 20)
    assert again.digest == texts.digest and converted.stat().st_mtime_ns == stamp
    (cache / "collections").joinpath(converted.parent.name, "facts.json").write_text("{", encoding="utf-8")
    assert read_texts(path, "document", "toy", in_memory=1 << 20).digest == texts.digest, "damage is mended"


def test_changed_file_is_converted_again(tmp_path):
    path = written(tmp_path, document(text="old"))
    assert read_texts(path, "document", "toy", in_memory=0).texts() == ["t old"]
    path = written(tmp_path, document(text="new"))
    os.utime(path, ns=(1, 1))
    assert read_texts(path, "document", "toy", in_memory=0).texts() == ["t new"]


def test_no_room_for_the_converted_copy_is_told(tmp_path, monkeypatch):
    path = written(tmp_path, document())

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retrodistill.collections.jsonl.write_json", full)
    with pytest.raises(InputError, match=r"cannot be written .*No space left on device.*RETRODISTILL_CACHE"):
        read_texts(path, "document", "toy", in_memory=0)


def test_cache_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="RETRODISTILL_CACHE"):
        read_texts(written(tmp_path, document()), "document", "toy", in_memory=0)
