"""Eight processes score overlapping work into one store; a flipped byte is found, named and scored again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call, done

from retrodistill.candidates import Candidate, Candidates
from retrodistill.collections import open_collection
from retrodistill.recipe import part
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging

PROCESSES, QUERIES, DOCUMENTS, PART = 8, 24, 10, 5

TEACHER = '''
"""Scores by the lengths and first bytes of two texts, and logs each pair that it is asked."""
import hashlib, os, time
from typing import Literal
import numpy as np
from retrodistill.teachers.teacher import Teacher


def value(query, document):
    return int(hashlib.sha256(f"{query}|{document}".encode()).hexdigest()[:6], 16) / 1000


class Logged(Teacher):
    kind: Literal["logged"] = "logged"
    log: str

    def open(self, collection):
        return Judge(self, collection)


class Judge:
    pairs_a_part = 5
    identity = {"kind": "logged"}

    def __init__(self, options, collection):
        self.options, self.collection = options, collection

    def query_text(self, query):
        return self.collection.queries.text(query)

    def document_text(self, document):
        return self.collection.corpus.text(document)

    def score(self, queries, documents):
        time.sleep(0.01)
        with open(f"{self.options.log}/{os.getpid()}", "a") as log:
            log.writelines(f"{query} {document}\\n" for query, document in zip(queries, documents))
        pairs = zip(queries, documents)
        return np.array([value(self.query_text(q), self.document_text(d)) for q, d in pairs], dtype=np.float32)
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A collection, the candidates of eight writers, of which each shares its half with the next, and a teacher."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "log").mkdir()
    lines = {"corpus": [], "queries": []}
    for number in range(DOCUMENTS):
        lines["corpus"].append({"_id": f"d{number}", "title": "", "text": f"text {number}"})
    for number in range(QUERIES):
        lines["queries"].append({"_id": f"q{number}", "text": f"query {number}"})
    for name, rows in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\n")
    step = QUERIES // PROCESSES
    for writer in range(PROCESSES):
        queries = [(writer * step + number) % QUERIES for number in range(2 * step)]
        rows = {f"q{q}": [Candidate(f"d{d}", "x", d + 1, 1.0, None) for d in range(DOCUMENTS)] for q in queries}
        Candidates.of(rows).write(tmp_path / f"{writer}.parquet")
    (tmp_path / "logged_teacher.py").write_text(TEACHER)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def command(place: Path, writer: int) -> list[str]:
    spec = json.dumps({"kind": "logged_teacher:Logged", "log": str(place / "log")})
    return ["score", f"{place}/{writer}.parquet", "--data", str(place), "--store", f"{place}/scores", "--teacher", spec]


def asked(place: Path) -> list[str]:
    return [line for path in (place / "log").iterdir() for line in path.read_text().splitlines()]


def check_scores(place: Path) -> None:
    from logged_teacher import value

    collection = open_collection(place)
    everything = Candidates.of(
        {f"q{q}": [Candidate(f"d{d}", "x", d + 1, 1.0, None) for d in range(DOCUMENTS)] for q in range(QUERIES)}
    )
    spec = part("teacher", {"kind": "logged_teacher:Logged", "log": str(place / "log")})
    (found,) = judging.read(everything, collection, [spec], ScoreStore(place / "scores"))
    pairs = zip(everything.query_ids, everything.doc_ids, strict=True)
    expected = [value(collection.queries.text(q), collection.corpus.text(d)) for q, d in pairs]
    np.testing.assert_allclose(found, np.array(expected, dtype=np.float32))


def test_eight_writers_lose_nothing_and_pay_twice_for_their_overlap_at_most(place):
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "retrodistill", *command(place, writer)],
            env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for writer in range(PROCESSES)
    ]  # fmt: skip
    for process in running:
        _, complaint = process.communicate(timeout=240)
        assert process.returncode == 0, complaint
    paid = asked(place)
    pairs = QUERIES * DOCUMENTS
    assert len(set(paid)) == pairs
    # each pair is in the work of two writers, who do not wait for each other
    assert len(paid) - pairs <= pairs
    check_scores(place)
    assert "all is well" in done("store", "verify", "--store", place / "scores").output
    # whoever comes later pays nothing
    done(*command(place, 0))
    assert len(asked(place)) == len(paid)


def test_a_flipped_byte_is_found_named_left_out_and_scored_again(place, capfd):
    done(*command(place, 0))
    parts = sorted((place / "scores").glob("*/part-*.parquet"))
    damaged, before = parts[1], len(asked(place))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    found = call("store", "verify", "--store", place / "scores")
    assert found.exit_code == 1
    assert str(damaged) in found.output
    assert "1 damaged" in found.output
    lost = asked(place)[PART : 2 * PART]
    said = done(*command(place, 0)).output
    assert f"{PART} pairs judged" in said
    assert damaged.name in said + capfd.readouterr().err
    assert sorted(asked(place)[before:]) == sorted(lost)
    damaged.unlink()
    assert "all is well" in done("store", "verify", "--store", place / "scores").output
    for writer in range(1, PROCESSES):
        done(*command(place, writer))
    check_scores(place)
