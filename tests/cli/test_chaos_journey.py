"""Teachers behind a server that misbehaves, through the command line: judged or listed, never invented or paid twice."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import done

sys.path.insert(0, str(Path(__file__).parents[1] / "language"))
from chaos_server import ChaosServer, truth

from retrodistill.candidates import Candidates
from retrodistill.recipe import part
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging
from retrodistill.teachers.contests import parsed
from retrodistill.teachers.failures import FAILED, read_failures

CYCLE = ("drop", "500", "half", "429", "html", "nothing", "schema", "empty", "index")
IN_FLIGHT = 4


def order(prompt: str) -> str:
    """A drawn order of the documents shown, with identifiers that are none, and one twice."""
    shown = re.findall(r"^\[\d+\]", prompt, flags=re.MULTILINE)
    turned = sorted(shown, key=lambda name: hashlib.sha256(f"{name}{prompt}".encode()).digest())
    return " > ".join([turned[0], "[99]", *turned])


FORMS = {
    "yes_no": {"yes": "Yes", "no": "No"},
    "pairwise": {"first": "Yes", "second": "No", "pairs": 5},
    "listwise": {"window": 3, "stride": 2, "repair_limit": 1.0},
}


def unlucky(prompt: str) -> bool:
    return hashlib.sha256(prompt.encode()).digest()[1] % 5 == 0


def teacher(kind, server, **options):
    model = {"kind": "openai", "model": "m", "url": server.url, "timeout_s": 0.5, "backoff_s": 0.001, "retries": 2}
    return {"kind": kind, "golden": False, "model": {**model, "concurrency": IN_FLIGHT, **options}, **FORMS[kind]}


def server_of(kind, mishap=lambda prompt, attempt: None, delay=0.0):
    return ChaosServer(mishap, words=order if kind == "listwise" else None, delay=delay)


@pytest.fixture
def mined(tmp_path, collection_folder):
    path = tmp_path / "candidates.parquet"
    done("mine", "--data", collection_folder, "--source", "bm25", "--depth", 5, "--out", path)
    return path


def words_of(tmp_path, mined, collection_folder, spec):
    store = tmp_path / "scores"
    return ["score", mined, "--data", collection_folder, "--store", store, "--teacher", json.dumps(spec)]


def believed(kind, prompts, spec, store, collection):
    """Every stored judgement is what the server says of a prompt, and there is one a prompt."""
    table = store.table(part("teacher", spec).open(collection).identity)
    if kind == "listwise":
        stored = sorted(found.answer for found in store.orders(table.identity).all())
        assert stored == sorted(order(prompt) for prompt in prompts)
        assert all(o.ranking == parsed(o.answer, len(o.ranking)).ranking for o in store.orders(table.identity).all())
        return
    from retrodistill.scores.store import read_part

    stored = np.concatenate([read_part(path)[1] for path in table.folder.glob("part-*")])
    expected = [math.log(truth(prompt)) - math.log(1 - truth(prompt)) for prompt in prompts]
    np.testing.assert_allclose(np.sort(stored), np.sort(expected), rtol=1e-5)


@pytest.mark.parametrize("kind", FORMS)
def test_what_fails_is_listed_with_the_reason_and_the_rerun_asks_for_it_alone(
    kind, tmp_path, mined, collection_folder, collection
):
    up = True

    def mishap(prompt, attempt):
        if up and unlucky(prompt):
            # three attempts, three mishaps; the last is what is told
            return CYCLE[(hashlib.sha256(prompt.encode()).digest()[2] + attempt) % len(CYCLE)]
        return "late" if attempt == 0 and hashlib.sha256(prompt.encode()).digest()[3] % 24 == 0 else None

    with server_of(kind, mishap) as server:
        spec = teacher(kind, server)
        words = words_of(tmp_path, mined, collection_folder, spec)
        said = done(*words).output
        (folder,) = [path.parent for path in (tmp_path / "scores").glob(f"*/{FAILED}")]
        failures = read_failures(folder / FAILED)
        bad = {prompt for prompt in server.asked if unlucky(prompt)}
        assert bad
        assert f"{folder.name}/{FAILED}" in said
        assert len(failures) == len(set(failures)) == len(bad)
        assert f"{len(bad)} FAILED" in said
        assert all(re.search("status|connection|reply|choices", failure.why) for failure in failures)
        assert set(server.answered) == set(server.asked) - bad
        believed(kind, server.answered, spec, ScoreStore(tmp_path / "scores"), collection)
        up = False
        good, before = set(server.asked) - bad, server.asked.copy()
        done(*words)
        # what was answered is not asked again; behind a window that failed others were waiting
        assert all(server.asked[prompt] == before[prompt] for prompt in good)
        assert kind == "listwise" or set(server.asked) == good | bad
        assert set(server.answered.values()) == {1}
        believed(kind, server.answered, spec, ScoreStore(tmp_path / "scores"), collection)
        found = judging.read(
            Candidates.read(mined), collection, [part("teacher", spec)], ScoreStore(tmp_path / "scores")
        )
        assert not np.isnan(found).any()
        assert not (folder / FAILED).exists()
        asked = server.asked.total()
        assert "are in the store" in done(*words).output
        assert server.asked.total() == asked


@pytest.mark.parametrize("kind", FORMS)
def test_killed_twice_and_started_again_only_what_was_under_way_is_paid_twice(
    kind, tmp_path, mined, collection_folder, collection
):
    def mishap(prompt, attempt):
        return CYCLE[attempt] if unlucky(prompt) and attempt < 2 else None

    with server_of(kind, mishap, delay=0.03) as server:
        spec = teacher(kind, server)
        command = [sys.executable, "-m", "retrodistill", *map(str, words_of(tmp_path, mined, collection_folder, spec))]
        for answers in (5, 14):
            running = subprocess.Popen(
                command, env={**os.environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            deadline = time.monotonic() + 120
            while server.answered.total() < answers and running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            assert running.poll() is None, "the run ended before it was killed"
            running.send_signal(signal.SIGKILL)
            running.wait()
        finished = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, timeout=120)
        assert finished.returncode == 0, finished.stderr
        assert "FAILED" not in finished.stdout
        assert sum(count - 1 for count in server.answered.values()) <= 2 * IN_FLIGHT
        believed(kind, server.answered, spec, ScoreStore(tmp_path / "scores"), collection)
        ledger = [
            json.loads(line) for path in tmp_path.glob("scores/*/calls.jsonl") for line in path.read_text().splitlines()
        ]
        assert sum(row["outcome"] == "answered" for row in ledger) <= server.answered.total()
