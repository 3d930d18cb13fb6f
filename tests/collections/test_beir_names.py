import functools
import hashlib
import http.server
import io
import socket
import stat
import threading
import zipfile

import pytest

from retrodistill.collections import beir
from retrodistill.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path):
    """A folder and the URL that it is served under."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served)) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield served, f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()
        thread.join()


def zipped(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return stream.getvalue()


def serve(server, monkeypatch, name, content):
    served, url = server
    (served / f"{name}.zip").write_bytes(content)
    monkeypatch.setattr(beir, "MD5", {**beir.MD5, name: hashlib.md5(content).hexdigest()})
    return url


def left_in(cache):
    return [path.name for path in cache.rglob("*") if path.is_file()]


def test_table_holds_the_fifteen_public_collections():
    assert len(beir.MD5) == 15 and len(set(beir.MD5.values())) == 15
    assert all(len(md5) == 32 and not md5.strip("0123456789abcdef") for md5 in beir.MD5.values())
    assert len(beir.names()) == 14 + 12 and "cqadupstack/wordpress" in beir.names() and "scifact" in beir.names()


def test_download_unpack_and_keep(server, monkeypatch, cache):
    members = {"scifact/": "", "scifact/corpus.jsonl": "c", "scifact/qrels/test.tsv": "q"}
    url = serve(server, monkeypatch, "scifact", zipped(**members))
    folder = beir.fetch("scifact", url)
    assert folder == cache / "beir" / "scifact"
    assert (folder / "corpus.jsonl").read_text() == "c" and (folder / "qrels" / "test.tsv").read_text() == "q"
    assert sorted(left_in(cache)) == ["corpus.jsonl", "test.tsv"]
    assert beir.fetch("scifact", "http://127.0.0.1:1") == folder, "the second time nothing is asked for"


def test_forums_share_one_archive(server, monkeypatch, cache):
    members = {f"cqadupstack/{forum}/corpus.jsonl": forum for forum in beir.FORUMS}
    url = serve(server, monkeypatch, "cqadupstack", zipped(**members))
    assert (beir.fetch("cqadupstack/gis", url) / "corpus.jsonl").read_text() == "gis"
    assert (beir.fetch("cqadupstack/tex", "http://127.0.0.1:1") / "corpus.jsonl").read_text() == "tex"


def test_wrong_checksum(server, cache):
    served, url = server
    content = zipped(**{"scifact/corpus.jsonl": "changed"})
    (served / "scifact.zip").write_bytes(content)
    with pytest.raises(InputError) as caught:
        beir.fetch("scifact", url)
    assert hashlib.md5(content).hexdigest() in str(caught.value) and beir.MD5["scifact"] in str(caught.value)
    assert left_in(cache) == []


def test_no_network_tells_host_and_place(cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=rf"cannot reach 127\.0\.0\.1:{port}") as caught:
        beir.fetch("cqadupstack/gis", f"http://127.0.0.1:{port}")
    assert str(cache / "beir" / "cqadupstack" / "gis" / "corpus.jsonl") in str(caught.value)
    assert "any BEIR-format folder" in str(caught.value)


def test_server_without_the_archive(server):
    with pytest.raises(InputError, match="answered 404"):
        beir.fetch("scifact", server[1])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "cannot reach"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10, "broke off 990 bytes early"),
    ],
)
def test_server_that_hangs_up(cache, answer, message):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up():
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with pytest.raises(InputError, match=message):
            beir.fetch("scifact", f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread.join()
    assert left_in(cache) == []


def link():
    info = zipfile.ZipInfo("scifact/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "name",
    ["../outside", "scifact/../../outside", "/outside", "scifact\\..\\outside", "C:/outside", link()],
    ids=["up", "up within", "absolute", "backslash", "drive", "link"],
)
def test_members_outside_are_refused(server, monkeypatch, cache, name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("scifact/corpus.jsonl", "c")
        archive.writestr(name, "/etc/passwd")
    url = serve(server, monkeypatch, "scifact", stream.getvalue())
    with pytest.raises(InputError, match="outside its folder; it was not unpacked"):
        beir.fetch("scifact", url)
    assert left_in(cache) == [] and not (cache / "outside").exists() and not (cache / "beir" / "outside").exists()


@pytest.mark.parametrize("content", [b"no archive", zipped(**{"scifact/corpus.jsonl": "c" * 999})[:-30]])
def test_damaged_archive(server, monkeypatch, cache, content):
    with pytest.raises(InputError, match=r"scifact\.zip is damaged"):
        beir.fetch("scifact", serve(server, monkeypatch, "scifact", content))
    assert left_in(cache) == []


def test_no_room_is_told(server, monkeypatch, cache):
    url = serve(server, monkeypatch, "scifact", zipped(**{"scifact/corpus.jsonl": "c"}))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(beir, "unpack", full)
    with pytest.raises(InputError, match=r"cannot be kept in .*No space left on device"):
        beir.fetch("scifact", url)
    assert left_in(cache) == []
