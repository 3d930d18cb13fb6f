"""Walks the road of a recipe: every stop leaves an artefact, and is skipped where its inputs did not change."""

from __future__ import annotations

import datetime
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from retrodistill import console, models, steps
from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, open_collection
from retrodistill.evaluation import protocol
from retrodistill.evaluation.protocol import Evaluation
from retrodistill.evaluation.report import markdown, write_report
from retrodistill.files import atomic_folder, digest_of, write_json, write_text
from retrodistill.mining.mine import mine
from retrodistill.recipe import Recipe
from retrodistill.registry import Part
from retrodistill.retrieval.encoded import EncoderRetriever
from retrodistill.retrieval.indexed import Indexed, write_index
from retrodistill.retrieval.rerank import Rerank
from retrodistill.runs import Run, read_run, write_run
from retrodistill.scores.store import ScoreStore
from retrodistill.teachers import judging

MANIFEST = "manifest.json"


def run(recipe: Recipe) -> dict[str, Evaluation]:
    """Mine, score, train, index, search, evaluate and report.

    Killed anywhere and called again, it goes on where it was, and ends with the same numbers.

    Returns:
        The evaluation of each system: `before`, `student`, `teacher` and the baselines, as in the report.
    """
    return _Walk(recipe).walk()


class _Walk:
    """One walk down the road of one recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = recipe.folder
        self.store = ScoreStore(recipe.store)
        self.collection: Collection = open_collection(recipe.data.path)

    def walk(self) -> dict[str, Evaluation]:
        recipe = self.recipe
        # every split is read before the first stop, so that a mistake in the last file is told now
        train, test = (len(self.collection.query_ids(split)) for split in (recipe.data.train, recipe.data.test))
        console.say(f"{recipe.name}: {self.collection.summary()}")
        write_text(self.folder / "recipe.yaml", recipe.dump())
        candidates = self._mine(train)
        self._score(candidates)
        self._train(candidates)
        if recipe.index is not None:
            self._index(recipe.index)
        evaluations = self._evaluate(None if recipe.index is None else self._search(test))
        self._describe(evaluations["student"])
        for name in ("report.md", "report.html"):
            write_report(self.folder / name, list(evaluations.values()))
        say("report", f"{self.folder}/report.md, {self.folder}/report.html")
        return evaluations

    def _mine(self, queries: int) -> Candidates:
        data, options = self.recipe.data, self.recipe.mine
        folder = self.folder / "mine"
        inputs = {
            "queries": [self.collection.digest, digest_of(self.collection.qrels(data.train))],
            "split": data.train,
            "sources": [cast(Any, source).open(self.collection).identity for source in options.sources],
            **options.model_dump(mode="json", exclude={"sources"}),
            "seed": self.recipe.seed,
        }

        def make(target: Path) -> dict[str, Any]:
            say("mine", f"{queries:,} queries, depth {options.depth}, from {_labels(options.sources)}")
            candidates, account = mine(
                self.collection,
                data.train,
                options.sources,
                depth=options.depth,
                sampler=options.sampler,
                filters=options.filters,
                seed=self.recipe.seed,
            )
            candidates.write(target / "candidates.parquet")
            console.say(account.table())
            return account.as_dict()

        _stop("mine", folder, inputs, make)
        return Candidates.read(folder / "candidates.parquet")

    def _score(self, candidates: Candidates) -> None:
        teachers = self.recipe.score.teachers
        if not teachers:
            return
        say("score", f"{len(candidates):,} pairs by {_labels(teachers)}")
        done = judging.judge(candidates, self.collection, teachers, self.store)
        for judged in done:
            say("", str(judged))
        write_json(
            self.folder / "score" / MANIFEST,
            {
                "artefact": "scores",
                "store": str(self.store.root),
                "candidates": candidates.digest,
                "teachers": [
                    {
                        "teacher": teacher.model_dump(mode="json"),
                        "fingerprint": judged.fingerprint,
                        "asked": judged.asked,
                    }
                    for teacher, judged in zip(teachers, done, strict=True)
                ],
                **_circumstances(),
            },
        )

    def _train(self, candidates: Candidates) -> None:
        from retrodistill.training.train import describe, train

        score, options = self.recipe.score, self.recipe.train
        teacher = steps.teacher_scores(candidates, self.collection, score.teachers, self.store, score.combine)
        inputs = describe(
            options.student,
            options.losses,
            candidates,
            self.collection,
            teacher=teacher,
            options=options.options,
            seed=self.recipe.seed,
        )
        folder = self.folder / "train"
        if _unchanged("train", folder, inputs):
            return
        say("train", f"{options.student.label}, {_labels(options.losses)}")
        manifest = train(
            options.student,
            options.losses,
            candidates,
            self.collection,
            folder,
            teacher=teacher,
            options=options.options,
            seed=self.recipe.seed,
            extra={
                "recipe": self.recipe.name,
                "teachers": [teacher.label for teacher in score.teachers],
                **_circumstances(),
            },
        )
        first, last = manifest["log"][0], manifest["log"][-1]
        say(
            "",
            f"{manifest['steps']} steps in {manifest['seconds']:.0f} s, loss {first['loss']:.4f} -> {last['loss']:.4f}",
        )

    def _index(self, index: Part) -> None:
        retriever = cast(EncoderRetriever, steps.as_retriever(str(self.folder / "train")))
        inputs = {
            "model": models.digest(retriever.model),
            "corpus": self.collection.corpus.digest,
            "index": index.model_dump(),
        }
        folder = self.folder / "index"
        if _unchanged("index", folder, inputs):
            return
        say("index", f"{len(self.collection.corpus):,} documents, {index.label}")
        write_index(
            retriever,
            index,
            self.collection,
            folder,
            {"fingerprint": digest_of(inputs), **_circumstances()},
        )

    def _search(self, queries: int) -> Run:
        folder, split = self.folder / "search", self.recipe.data.test
        depth = protocol.needed_depth(self.recipe.evaluate.metrics)
        asked = self.collection.query_ids(split)
        inputs = {
            "index": models.read_json(self.folder / "index" / MANIFEST)["fingerprint"],
            "queries": [self.collection.queries.digest, asked],
            "depth": depth,
        }
        searcher = Indexed(path=self.folder / "index").open(self.collection)

        def make(target: Path) -> dict[str, Any]:
            say("search", f"{queries:,} queries, depth {depth}")
            write_run(target / "run.trec", searcher.search(asked, depth + 1), self.recipe.name)
            return {"details": searcher.details}

        _stop("search", folder, inputs, make)
        return read_run(folder / "run.trec")

    def _evaluate(self, run: Run | None) -> dict[str, Evaluation]:
        """All systems; the student's run is found by re-ranking where it searched no index."""
        options, split = self.recipe.evaluate, self.recipe.data.test
        makers: dict[str, tuple[Any, Callable[[], tuple[Evaluation, Run]]]] = {}
        if options.before:
            before = self._as_system(self._before())
            identity = cast(Any, before).open(self.collection).identity
            makers["before"] = (identity, partial(self._system, "student before", before))
        if run is None:
            after = self._as_system(str(self.folder / "train"))
            identity = cast(Any, after).open(self.collection).identity
            makers["student"] = (identity, partial(self._system, "student after", after))
        else:
            details = models.read_json(self.folder / "search" / MANIFEST)["details"]
            makers["student"] = (digest_of(run), partial(self._measured, "student after", run, details))
        if options.teacher and self.recipe.score.teachers:
            score, sources = self.recipe.score, self.recipe.mine.sources
            identity = [
                judging.identities(self.collection, score.teachers),
                judging.identities(self.collection, sources),
                score.combine and score.combine.model_dump(),
                self.recipe.mine.depth,
            ]
            makers["teacher"] = (identity, self._teacher)
        for baseline in options.baselines:
            identity = cast(Any, baseline).open(self.collection).identity
            makers[_safe(baseline.label)] = (identity, partial(self._system, baseline.label, baseline))
        evaluations: dict[str, Evaluation] = {}
        judgements = digest_of(self.collection.qrels(split))
        for name, (identity, make) in makers.items():
            inputs = {
                "system": identity,
                "collection": self.collection.digest,
                "qrels": judgements,
                "metrics": options.metrics,
            }
            evaluations[name] = self._kept(name, inputs, make)
        return evaluations

    def _kept(self, name: str, inputs: Mapping[str, Any], make: Callable[[], tuple[Evaluation, Run]]) -> Evaluation:
        folder = self.folder / "evaluate" / name

        def write(target: Path) -> dict[str, Any]:
            say("evaluate", name)
            protocol.save(target, *make())
            return {}

        _stop("evaluate", folder, inputs, write, f"evaluate  {name}")
        return protocol.load(folder)

    def _as_system(self, model: str) -> Part:
        """What finds documents by a student: the student itself, or a cross-encoder over the mining's sources."""
        if cast(Any, self.recipe.train.student).emits != "pairs":
            return steps.as_retriever(model)
        mining = self.recipe.mine
        teacher = {"kind": "cross_encoder", "model": model}
        return Rerank(sources=mining.sources, teacher=teacher, depth=mining.depth)

    def _describe(self, evaluation: Evaluation) -> None:
        """Put what was measured on the student's card."""
        from retrodistill.training.card import CARD, card

        folder, student = self.folder / "train", cast(Any, self.recipe.train.student)
        manifest = models.read_json(folder / MANIFEST)
        write_text(
            folder / CARD, card(student, manifest, evaluation.metrics, f"{evaluation.collection}, {evaluation.split}")
        )

    def _system(self, name: str, part: Part) -> tuple[Evaluation, Run]:
        return steps.evaluate(
            part, self.collection, self.recipe.data.test, metrics=self.recipe.evaluate.metrics, name=name
        )

    def _measured(self, name: str, run: Run, details: dict[str, Any]) -> tuple[Evaluation, Run]:
        return protocol.evaluate_run(
            run,
            self.collection.qrels(self.recipe.data.test),
            metrics=self.recipe.evaluate.metrics,
            depth=protocol.needed_depth(self.recipe.evaluate.metrics),
            system=name,
            collection=self.collection.name,
            split=self.recipe.data.test,
            documents=len(self.collection.corpus),
            details=details,
        )

    def _teacher(self) -> tuple[Evaluation, Run]:
        recipe = self.recipe
        return steps.evaluate_teacher(
            self.collection,
            recipe.data.test,
            sources=recipe.mine.sources,
            depth=recipe.mine.depth,
            teachers=recipe.score.teachers,
            store=self.store,
            combine=recipe.score.combine,
            metrics=recipe.evaluate.metrics,
        )

    def _before(self) -> str:
        """The student as it was before training, cut and all, as a model of its own."""
        student, folder = cast(Any, self.recipe.train.student), self.folder / "before"
        identity = digest_of(student.identity)
        if not (folder / MANIFEST).exists() or models.read_json(folder / MANIFEST).get("fingerprint") != identity:
            with atomic_folder(folder) as temporary:
                student.save(student.load("cpu"), temporary)
                write_json(temporary / MANIFEST, {"artefact": "model", "fingerprint": identity, **_circumstances()})
        return str(folder)


def say(stop: str, what: str) -> None:
    """A line of the walk: which stop, and what it does."""
    console.say(f"{stop:<9} {what}")


def _labels(parts: Any) -> str:
    return ", ".join(part.label for part in parts)


def _safe(label: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in label)


def _circumstances() -> dict[str, Any]:
    """When and with what an artefact was made."""
    packages = ("retrodistill", "torch", "transformers", "sentence-transformers", "faiss-cpu", "bm25s", "numpy")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "versions": versions}


def _unchanged(name: str, folder: Path, inputs: Mapping[str, Any]) -> bool:
    manifest = folder / MANIFEST
    if not manifest.exists() or models.read_json(manifest).get("fingerprint") != digest_of(inputs):
        return False
    say(name, f"unchanged, skipped ({folder})")
    return True


def _stop(
    name: str, folder: Path, inputs: Mapping[str, Any], make: Callable[[Path], dict[str, Any]], said: str | None = None
) -> None:
    """Make a stop's artefact in a folder of its own, whole or not at all, unless it is there already."""
    if _unchanged(said or name, folder, inputs):
        return
    began = time.perf_counter()
    with atomic_folder(folder) as temporary:
        facts = make(temporary)
        manifest = {
            "artefact": name,
            "fingerprint": digest_of(inputs),
            "inputs": inputs,
            **facts,
            "seconds": round(time.perf_counter() - began, 2),
            **_circumstances(),
        }
        write_json(temporary / MANIFEST, manifest)


def table(evaluations: Mapping[str, Evaluation]) -> str:
    """What a walk ends with, as Markdown."""
    return markdown(list(evaluations.values()))
