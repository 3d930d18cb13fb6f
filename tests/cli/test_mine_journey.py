"""Mining from the command line: what is kept and dropped is told, and lies beside the candidates."""

from __future__ import annotations

import json

from commands import call, done

from retrodistill.candidates import Candidates


def test_mining_tells_what_became_of_every_document(tmp_path, collection_folder, tiny_cross_encoder):
    out, store = tmp_path / "candidates.parquet", tmp_path / "scores"
    teacher = f"cross_encoder:{tiny_cross_encoder}"
    mined = done(
        "mine", "--data", collection_folder, "--source", "bm25", "--source", "random", "--depth", 8,
        "--filter", "duplicates", "--filter", "near_duplicates:0.9", "--filter", "length:3",
        "--filter", f"{{kind: margin, teacher: '{teacher}'}}", "--refill",
        "--sampler", f"{{kind: simans, n: 4, teacher: '{teacher}'}}", "--store", store, "--out", out,
    )  # fmt: skip
    manifest = json.loads((tmp_path / "candidates.parquet.json").read_text())
    found = Candidates.read(out)
    assert manifest["candidates"] == found.digest
    assert manifest["kept"] == len(found)
    assert sum(manifest["found"].values()) + manifest["added"] == manifest["kept"] + sum(manifest["dropped"].values())
    assert manifest["options"]["sampler"]["teacher"]["model"] == str(tiny_cross_encoder)
    assert set(manifest["short_of_negatives"]) <= set(found.queries)
    for reason, count in manifest["dropped"].items():
        assert f"| dropped: {reason}" in mined.stdout and f"{count:,}" in mined.stdout
    # What the teacher of mining judged, scoring finds in the store.
    scored = done("score", out, "--data", collection_folder, "--teacher", teacher, "--store", store)
    assert f"{teacher}: all {len(found)} judgements are in the store" in scored.stdout


def test_a_wrong_rule_is_told_by_option(tmp_path, collection_folder):
    words = ["mine", "--data", collection_folder, "--source", "bm25", "--out", tmp_path / "c.parquet"]
    for rule, said in [
        (["--sampler", "{kind: simans, n: 3, teacher: cross_encoder:no/such}"], "model 'no/such' is no folder here"),
        (["--sampler", "{kind: quantile, n: 3, low: 0.9, high: 0.1}"], "low: 0.9 is not below high: 0.1"),
        (["--filter", "perc_pos:950"], "percent: input should be less than or equal to 100"),
        (["--sampler", "logunifrom:3"], "unknown sampler 'logunifrom'; did you mean 'log_uniform'?"),
        (["--source", "random", "--filter", "margin"], "margin: scores of 2 sources are on scales of their own"),
    ]:
        result = call(*words, *rule)
        assert result.exit_code == 2 and said in result.output, result.output
    assert not (tmp_path / "c.parquet").exists()
