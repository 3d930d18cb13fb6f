import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrodistill.errors import InputError
from retrodistill.files import (
    alone_in,
    atomic_file,
    atomic_folder,
    differences,
    digest_of,
    digest_of_file,
    digest_of_files,
    refuse_to_replace,
    refuse_unwritable,
    write_json,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Files


WRITES = {
    "numpy": "np.save(path.open('wb'), x)",
    "tofile": "x.tofile(path)",
    "torch": "torch.save(torch.from_numpy(x), path)",
    "safetensors": "safetensors.numpy.save_file({'x': x}, path)",
    "faiss": "index = faiss.IndexFlatIP(100); index.add(x); faiss.write_index(index, str(path))",
    "json": "path.write_text('x' * 200_000)",
}
LIMITED = """
import resource, sys
from pathlib import Path
import faiss, numpy as np, safetensors.numpy, torch
from retrodistill.files import atomic_file
x = np.ones((500, 100), np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    with atomic_file(Path(sys.argv[1])) as path:
        exec(sys.argv[2])
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.parametrize("library", WRITES)
def test_what_no_library_can_write_is_told_by_its_name_and_nothing_is_left(library, tmp_path):
    words = [sys.executable, "-c", LIMITED, str(tmp_path / "out"), WRITES[library]]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    reasons = {"numpy": errno.EIO, "tofile": errno.EIO, "torch": errno.EIO}
    assert told == [str(reasons.get(library, errno.EFBIG)), str(tmp_path / "out")]
    assert not everything(tmp_path)


def test_a_full_disk_is_the_reason_where_a_library_gives_none(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left") as told, atomic_folder(tmp_path / "out"):
        raise OSError("500000 requested and 76768 written")
    assert told.value.filename == str(tmp_path / "out")


def test_other_mistakes_pass_as_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "out"):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError) as told, atomic_file(tmp_path / "out"):
        (tmp_path / "other").read_text()
    assert told.value.filename == str(tmp_path / "other")


def test_a_folder_that_was_moved_away_when_its_writer_was_killed_is_put_back(tmp_path):
    code = (
        "import os, sys, pathlib\n"
        "from retrodistill.files import atomic_folder\n"
        "rename = pathlib.Path.rename\n"
        "def kill(path, target):\n"
        "    rename(path, target)\n"
        "    os.kill(os.getpid(), 9)\n"
        "pathlib.Path.rename = kill\n"
        "with atomic_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'new').touch()\n"
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False).returncode == -9
    assert not (tmp_path / "a").exists()
    write_text(tmp_path / "b.txt", "")
    assert everything(tmp_path) == ["a", "a/old", "b.txt"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_stays(tmp_path):
    code = (
        "import os, sys, pathlib\n"
        "from retrodistill.files import atomic_file, atomic_folder\n"
        "with atomic_file(pathlib.Path(sys.argv[1])) as file, atomic_folder(pathlib.Path(sys.argv[2])) as folder:\n"
        "    file.write_text('half'), (folder / 'x').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    names = [str(tmp_path / "a.txt"), str(tmp_path / "b")]
    assert subprocess.run([sys.executable, "-c", code, *names], check=False).returncode == -9
    assert len(everything(tmp_path)) == 3
    with atomic_file(tmp_path / "c.txt") as living:
        living.write_text("mine")
        write_text(tmp_path / "d.txt", "other")
        assert living.exists()
    assert everything(tmp_path) == ["c.txt", "d.txt"]


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "deep" / "down" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert everything(path.parent) == ["a.txt"]


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert everything(tmp_path) == ["a.txt"]
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert everything(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt"):
        raise RuntimeError
    assert everything(tmp_path) == []


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_file(path) as first, atomic_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last to finish
    assert everything(tmp_path) == ["a.txt"]


# Folders


def test_a_folder_appears_whole(tmp_path):
    path = tmp_path / "deep" / "artefact"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert everything(path.parent) == ["artefact", "artefact/a"]


def test_a_folder_is_replaced_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "artefact"
    with atomic_folder(path) as temporary:
        (temporary / "old").touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert everything(tmp_path) == ["artefact", "artefact/old"]
    with atomic_folder(path) as temporary:
        (temporary / "new").touch()
        assert everything(path) == ["old"]
    assert everything(tmp_path) == ["artefact", "artefact/new"]


def test_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_folder(Path()) as temporary:
        (temporary / "a").touch()
    assert everything(tmp_path) == ["here", "here/a"]


def test_a_folder_of_the_users_is_not_replaced(tmp_path):
    refuse_to_replace(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    refuse_to_replace(tmp_path / "empty")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "manifest.json").touch()
    refuse_to_replace(tmp_path / "ours")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "chapter1.tex"):
        with pytest.raises(
            InputError, match="holds something else, which would be replaced; name a new or an empty folder"
        ):
            refuse_to_replace(path)


# Content


def test_json_and_text(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, 2.5, None], "path": Path("a/b")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": [1, 2.5, None], "path": "a/b"}
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_text(tmp_path / "a.txt", "né\n")
    assert (tmp_path / "a.txt").read_bytes() == "né\n".encode()


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="Circular"):
        circle = []
        circle.append(circle)
        write_json(tmp_path / "a.json", circle)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert everything(tmp_path) == ["a.json"]


# Digests


def shuffled(value, generator):
    if isinstance(value, dict):
        keys = list(value)
        generator.shuffle(keys)
        return {key: shuffled(value[key], generator) for key in keys}
    return [shuffled(item, generator) for item in value] if isinstance(value, list) else value


@given(value=JSON, seed=st.integers(0, 100))
def test_the_order_of_keys_does_not_matter(value, seed):
    assert digest_of(shuffled(value, random.Random(seed))) == digest_of(value)
    assert digest_of(json.loads(json.dumps(value))) == digest_of(value)


@given(first=JSON, second=JSON)
def test_another_value_has_another_digest(first, second):
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (digest_of(first) == digest_of(second)) == same


def test_the_order_of_a_list_matters():
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert digest_of(["a", "bc"]) != digest_of(["ab", "c"])
    assert digest_of({"a": {"b": 1, "c": 2}}) == hashlib.sha256(b'{"a":{"b":1,"c":2}}').hexdigest()


def test_digests_of_files(tmp_path):
    for name, content in (("a", "1"), ("b", "2"), ("sub/a", "1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    paths = [tmp_path / name for name in ("a", "b", "sub/a")]
    assert digest_of_file(paths[0]) == hashlib.sha256(b"1").hexdigest() == digest_of_file(paths[2])
    whole = digest_of_files(paths, tmp_path)
    assert digest_of_files(reversed(paths), tmp_path) == whole
    assert digest_of_files(paths[:2], tmp_path) != whole
    paths[2].rename(tmp_path / "sub" / "c")
    assert digest_of_files([*paths[:2], tmp_path / "sub" / "c"], tmp_path) != whole


def test_differences_are_named():
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == [
        "b: 2 stored, 4 asked",
        "c: 3 stored, None asked",
        "d: None stored, 5 asked",
    ]
    assert differences({"a": [1]}, {"a": [1]}) == []


def test_one_process_works_in_a_folder(tmp_path):
    script = (
        "from pathlib import Path\nfrom retrodistill.files import alone_in\n"
        f"with alone_in(Path({str(tmp_path)!r})): print('in')"
    )

    def other():
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    with alone_in(tmp_path):
        refused = other()
        assert refused.returncode != 0 and f"another run, process {os.getpid()}, works in it" in refused.stderr
    assert other().stdout == "in\n"
    with alone_in(tmp_path):  # after it, and after one that ended
        pass


def test_the_root_of_all_folders_can_be_asked_about():
    refuse_unwritable(Path("/"))
