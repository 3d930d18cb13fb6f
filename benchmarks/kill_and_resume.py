"""Claim: a run that is killed at random moments and started again ends as if nothing had happened.

Walks a recipe once undisturbed, then again in another folder, killed with SIGKILL at random moments before it may end.
Compares candidates, judgements, weights and metrics. Exit status 1 where anything differs.

    python benchmarks/kill_and_resume.py recipes/scifact.yaml data.path=DIR train.max_steps=20 --kills 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrodistill.candidates import Candidates
from retrodistill.files import digest_of_file


def start(recipe: str, overrides: list[str], folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    settings = [*overrides, f"runs={folder / 'runs'}", f"store={folder / 'scores'}"]
    return subprocess.Popen(
        [sys.executable, "-m", "retrodistill", "run", recipe, *settings],
        env={**os.environ, "RETRODISTILL_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("a"),
        start_new_session=True,
    )


def finish(process: subprocess.Popen, folder: Path) -> None:
    if process.wait() != 0:
        sys.exit(f"the run failed:\n{(folder / 'log').read_text()[-3000:]}")


def outcome(folder: Path) -> dict[str, object]:
    """Everything that has to be the same."""
    run = next(path for path in (folder / "runs").iterdir() if path.is_dir())
    stored = {}
    for teacher in sorted(path for path in (folder / "scores").iterdir() if path.is_dir()):
        table = pa.concat_tables([pq.read_table(part) for part in teacher.glob("part-*.parquet")])
        order = sorted(table.column_names[:-1])
        stored[teacher.name] = table.sort_by([(name, "ascending") for name in order])
    results = sorted(run.glob("evaluate/*/results.json"))
    return {
        "candidates": Candidates.read(run / "mine" / "candidates.parquet").digest,
        "judgements": {
            name: [column.to_numpy().tobytes() for column in table.columns] for name, table in stored.items()
        },
        "weights": digest_of_file(run / "train" / "model.safetensors"),
        "metrics": {path.parent.name: json.loads(path.read_text())["metrics"] for path in results},
    }


def compare(recipe: str, overrides: list[str], kills: int, seed: int, folder: Path) -> list[str]:
    """What differs between the undisturbed and the killed run."""
    began = time.perf_counter()
    finish(start(recipe, overrides, folder / "whole"), folder / "whole")
    seconds = time.perf_counter() - began
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    generator, killed = random.Random(seed), 0
    while killed < kills:
        process = start(recipe, overrides, folder / "killed")
        moment = generator.uniform(0, 0.5 * seconds)
        time.sleep(moment)
        if process.poll() is not None:
            finish(process, folder / "killed")
            print(f"ended by itself before kill {killed + 1}", flush=True)
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        last = (folder / "killed" / "log").read_text().splitlines()
        print(f"kill {killed} after {moment:.1f} s, at: {last[-1] if last else 'start'}", flush=True)
    finish(start(recipe, overrides, folder / "killed"), folder / "killed")
    whole, broken = outcome(folder / "whole"), outcome(folder / "killed")
    return [name for name in whole if whole[name] != broken[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(np.random.default_rng().integers(1 << 31)))
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        print(f"seed {options.seed}")
        different = compare(options.recipe, options.overrides, options.kills, options.seed, Path(folder))
    print(f"different: {', '.join(different)}" if different else "the same candidates, judgements, weights and metrics")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
