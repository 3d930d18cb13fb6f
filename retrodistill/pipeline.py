"""Walks the road of a recipe: every stop leaves an artefact, and is skipped where its inputs did not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from retrodistill import console, models, steps
from retrodistill.candidates import Candidates
from retrodistill.collections import Collection, open_collection
from retrodistill.encoders import device_of
from retrodistill.evaluation import protocol
from retrodistill.evaluation.protocol import Evaluation
from retrodistill.evaluation.report import write_report
from retrodistill.files import atomic_folder, digest_of, write_json, write_text
from retrodistill.folds import FOLDS, Folds, place_of
from retrodistill.manifests import MANIFEST, circumstances, made_of, make_once, say, unchanged
from retrodistill.mining.mine import mine
from retrodistill.mining.pool import judges_of
from retrodistill.querying import make_queries
from retrodistill.registry import Part, build, code_of
from retrodistill.retrieval.encoded import EncoderRetriever
from retrodistill.retrieval.indexed import Indexed, write_index
from retrodistill.retrieval.rerank import Rerank
from retrodistill.runs import read_run, write_run
from retrodistill.scores.learnt import Learnt
from retrodistill.scores.store import ScoreStore, fingerprint
from retrodistill.sections import Recipe, Stage, Train
from retrodistill.teachers import judging

Maker = Callable[[], tuple[Evaluation, protocol.Run]]


def run(recipe: Recipe) -> dict[str, Evaluation]:
    """Mine, score, train, index, search, evaluate and report, once or in rounds, for one student or several.

    Killed anywhere and called again, it goes on where it was, and ends with the same numbers. Started by torchrun, its
    processes share the training; at the other stops one works and the others wait.

    Returns:
        The evaluation of each system, as in the report: `before`, `student`, `teacher` and the baselines. With several
        students `before-NAME` and `NAME` of each; with rounds a student of an earlier one as `ROUND` or `ROUND-NAME`.
    """
    from retrodistill.training.workers import Workers

    workers, candidates = Workers.start(device_of(None)), dict[str, Candidates]()
    with workers.first():
        walk = Walk(recipe).read()
    with workers.alone_in(walk.folder):
        with workers.first():
            walk.begin()
        for stage in walk.stages:
            with workers.first():
                candidates[stage.name] = walk.mine(stage)
                walk.score(stage, candidates[stage.name])
            for name in stage.students:
                walk.train(stage, name, candidates[stage.name])
        with workers.first():
            return walk.measure()


class Walk:
    """One walk down the road of one recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder, self.stages = recipe.folder, recipe.stages
        self.store = ScoreStore(recipe.store)
        self.collection: Collection = opened(recipe)

    def read(self) -> Walk:
        """Read every split before the first stop, so that a mistake in the last file is told now."""
        data = self.recipe.data
        for split in (data.train, data.test, *([data.measured_on] if data.measured_on else [])):
            self.collection.query_ids(split)
        self.collection.refuse_spaces()
        return self

    def begin(self) -> None:
        """Say what is walked through, and leave the recipe in the folder."""
        console.say(f"{self.recipe.name}: {self.collection.summary()}")
        write_text(self.folder / "recipe.yaml", self.recipe.dump())

    def mine(self, stage: Stage) -> Candidates:
        """The candidates of a round, mined now or before."""
        data, options = self.recipe.data, stage.mine
        folder = stage.folder / "mine"
        inputs = {
            "queries": [self.collection.digest, digest_of(self.collection.qrels(data.train))],
            "split": data.train,
            "sources": judging.identities(self.collection, options.sources),
            "judges": judging.identities(
                self.collection, judges_of((options.sampler, *options.filters, options.weigh))
            ),
            # what is not weighed is what it was before there were weights
            **options.model_dump(mode="json", exclude={"sources", "memory", *(() if options.weigh else ("weigh",))}),
            **code_of(options),
            "seed": self.recipe.seed,
        }

        def make(target: Path) -> dict[str, Any]:
            queries = len(self.collection.query_ids(data.train))
            say(_named("mine", stage), f"{queries:,} queries, depth {options.depth}, from {_labels(options.sources)}")
            candidates, account = mine(
                self.collection,
                data.train,
                options.sources,
                depth=options.depth,
                sampler=options.sampler,
                filters=options.filters,
                refill=options.refill,
                weigh=options.weigh,
                labels=options.labels,
                store=self.store,
                memory=options.memory,
                seed=self.recipe.seed,
            )
            candidates.write(target / "candidates.parquet")
            console.say(account.table())
            return account.as_dict()

        make_once("mine", folder, inputs, make, _named("mine", stage))
        return Candidates.read(folder / "candidates.parquet")

    def score(self, stage: Stage, candidates: Candidates) -> None:
        """Have a round's teachers judge what the store has not."""
        teachers = stage.score.teachers
        if not teachers:
            return
        say(_named("score", stage), f"{len(candidates):,} pairs by {_labels(teachers)}")
        steps.score(stage.score, candidates, self.collection, self.store, self.recipe.seed, partial(say, ""))
        identities = judging.identities(self.collection, teachers)
        rules = [rule and rule.model_dump(mode="json") for rule in map(stage.score.bought_by, teachers)]
        by_teacher = [
            {"teacher": teacher.model_dump(mode="json"), "fingerprint": fingerprint(identity), "bought_by": rule}
            for teacher, identity, rule in zip(teachers, identities, rules, strict=True)
        ]
        about = {"artefact": "scores", "store": str(self.store.root), "candidates": candidates.digest}
        spent = stage.score.model_dump(mode="json", include={"budget", "hints"})
        write_json(stage.folder / "score" / MANIFEST, {**about, "teachers": by_teacher, **spent, **circumstances()})

    def train(self, stage: Stage, name: str, candidates: Candidates) -> None:
        """Train one student of a round, or the models of its folds, unless it was."""
        from retrodistill.training.workers import Workers

        options, folder, said = stage.students[name], stage.place("train", name), _named("train", stage, name)
        with Workers.start(device_of(None)).first():
            folds = self._folds(options, folder)
        if folds is None:
            self._train(stage, options, candidates, folder, said)
            return
        for fold in range(folds.count):
            chosen = candidates.select(folds.unseen(fold, self.collection, candidates.queries))
            self._train(stage, options, chosen, place_of(folder, fold), f"{said} fold {fold}")

    def _folds(self, options: Train, folder: Path) -> Folds | None:
        """Who is in which fold, kept beside the models; what another recipe left in the folder goes."""
        if (folder / (MANIFEST if options.folds else FOLDS)).exists():
            shutil.rmtree(folder)
        if not options.folds:
            return None
        folds = Folds.of(self.collection, self.recipe.data.train, options.folds)
        folder.mkdir(parents=True, exist_ok=True)
        folds.write(folder)
        return folds

    def _train(self, stage: Stage, options: Train, candidates: Candidates, folder: Path, said: str) -> None:
        from retrodistill.training.train import describe, train

        score = stage.score
        arguments: dict[str, Any] = {
            **steps.taught(options.losses, candidates, self.collection, score.teachers, self.store, score.combine),
            "options": options.options,
            "seed": self.recipe.seed,
            "dev": self.recipe.data.measured_on,
        }
        inputs = describe(options.student, options.losses, candidates, self.collection, **arguments)
        if unchanged(said, folder, inputs):
            return
        say(said, f"{options.student.label}, {_labels(options.losses)}")
        facts = {
            "recipe": self.recipe.name,
            "teachers": [teacher.label for teacher in score.teachers],
            **circumstances(),
        }
        manifest = train(options.student, options.losses, candidates, self.collection, folder, **arguments, extra=facts)
        first, last = manifest["log"][0], manifest["log"][-1]
        done = f"{manifest['steps']} steps in {manifest['seconds']:.0f} s"
        dev = manifest.get("dev")
        kept = f"; the weights of step {dev['kept_step']} are kept, {dev['metric']} {dev['kept']:.4f}" if dev else ""
        say("", f"{done}, loss {first['loss']:.4f} -> {last['loss']:.4f}{kept}")

    def measure(self) -> dict[str, Evaluation]:
        """Index, search and evaluate every student and what it is held against, and report."""
        makers = dict(self._systems())
        evaluations = {name: self._kept(name, identity, make) for name, (identity, make) in makers.items()}
        for stage, name, key in self._after():
            self._describe(stage, name, evaluations[key])
        for name in ("report.md", "report.html"):
            write_report(self.folder / name, list(evaluations.values()))
        say("report", f"{self.folder}/report.md, {self.folder}/report.html")
        return evaluations

    def _systems(self) -> Iterator[tuple[str, tuple[Any, Maker]]]:
        """Every system by name: what decides its numbers, and what measures it."""
        options, stages = self.recipe.evaluate, self.stages
        if options.before:
            first = next(stage for stage in stages if stage.searched)
            for name, train in first.searched.items():
                before = self.system_of(first, train, self.before(first, name))
                title = "student before" if name == "student" else f"{name} before"
                yield f"before{_suffix(name)}", (self._identity(before), partial(self._evaluate, title, before))
        for stage, name, key in self._after():
            title = f"{name} after" if stage is stages[-1] else f"{name} of {stage.name}"
            yield key, self._student(stage, name, title)
        if options.teacher and stages[-1].score.teachers and self._affords(stages[-1]):
            yield "teacher", self._teacher(stages[-1])
        for baseline in options.baselines:
            yield _safe(baseline.label), (self._identity(baseline), partial(self._evaluate, baseline.label, baseline))

    def _after(self) -> Iterator[tuple[Stage, str, str]]:
        """Every trained student: its round, its name there, and its name among the evaluations."""
        for stage in self.stages:
            for name in stage.searched:
                yield stage, name, name if stage is self.stages[-1] else f"{stage.name}{_suffix(name)}"

    def _describe(self, stage: Stage, name: str, evaluation: Evaluation) -> None:
        """Put what was measured on the student's card."""
        from retrodistill.training.card import CARD, card

        folder, student = stage.place("train", name), cast(Any, stage.students[name].student)
        measured_on = f"{evaluation.collection}, {evaluation.split}"
        write_text(folder / CARD, card(student, models.read_json(folder / MANIFEST), evaluation.metrics, measured_on))

    def _student(self, stage: Stage, name: str, title: str) -> tuple[Any, Maker]:
        """A student through its index; one that reads pairs re-ranks what the sources find."""
        train = stage.students[name]
        if cast(Any, train.student).emits == "pairs":
            system = self.system_of(stage, train, str(stage.place("train", name)))
            return self._identity(system), partial(self._evaluate, title, system)
        run, details = self._search(stage, name, train)
        return digest_of(run), partial(self._measured, title, run, details)

    def _index(self, stage: Stage, name: str, train: Train) -> Path:
        retriever = cast(EncoderRetriever, self._encoding(str(stage.place("train", name))))
        fits = self.recipe.index is not None and cast(Any, self.recipe.index).accepts == cast(Any, train.student).emits
        index = cast(Part, self.recipe.index) if fits else retriever.exact_index
        inputs = {
            "model": models.digest(retriever.model),
            "corpus": self.collection.corpus.digest,
            "index": {**index.model_dump(), **code_of(index)},
            "precision": retriever.precision,
        }
        folder = stage.place("index", name)
        if not unchanged(_named("index", stage, name), folder, inputs):
            say(_named("index", stage, name), f"{len(self.collection.corpus):,} documents, {index.label}")
            facts = {"fingerprint": digest_of(inputs), **circumstances()}
            write_index(retriever, index, self.collection, folder, facts)
        return folder

    def _search(self, stage: Stage, name: str, train: Train) -> tuple[protocol.Run, dict[str, Any]]:
        index, folder = self._index(stage, name, train), stage.place("search", name)
        depth = protocol.needed_depth(self.recipe.evaluate.metrics)
        asked = self.collection.query_ids(self.recipe.data.test)
        inputs = {
            "index": models.read_json(index / MANIFEST)["fingerprint"],
            "queries": [self.collection.queries.digest, asked],
            "depth": depth,
        }
        searcher = Indexed(path=index).open(self.collection)

        def make(target: Path) -> dict[str, Any]:
            say(_named("search", stage, name), f"{len(asked):,} queries, depth {depth}")
            write_run(target / "run.trec", searcher.search(asked, depth + 1), self.recipe.name)
            return {"details": searcher.details}

        make_once("search", folder, inputs, make, _named("search", stage, name))
        return read_run(folder / "run.trec"), models.read_json(folder / MANIFEST)["details"]

    def _kept(self, name: str, identity: Any, make: Maker) -> Evaluation:
        folder = self.folder / "evaluate" / name
        inputs = {
            "system": identity,
            "collection": self.collection.digest,
            "qrels": digest_of(self.collection.qrels(self.recipe.data.test)),
            "metrics": self.recipe.evaluate.metrics,
        }

        def write(target: Path) -> dict[str, Any]:
            say("evaluate", name)
            protocol.save(target, *make())
            return {}

        make_once("evaluate", folder, inputs, write, f"evaluate  {name}")
        return protocol.load(folder)

    def _identity(self, system: Part) -> Any:
        return {**cast(Any, system).open(self.collection).identity, **code_of(system)}

    def _evaluate(self, title: str, system: Part) -> tuple[Evaluation, protocol.Run]:
        recipe = self.recipe
        return steps.evaluate(system, self.collection, recipe.data.test, metrics=recipe.evaluate.metrics, name=title)

    def _measured(self, title: str, run: protocol.Run, details: dict[str, Any]) -> tuple[Evaluation, protocol.Run]:
        recipe = self.recipe
        return protocol.evaluate_run(
            run,
            self.collection.qrels(recipe.data.test),
            metrics=recipe.evaluate.metrics,
            depth=protocol.needed_depth(recipe.evaluate.metrics),
            system=title,
            collection=self.collection.name,
            split=recipe.data.test,
            documents=len(self.collection.corpus),
            details=details,
        )

    def _affords(self, stage: Stage) -> bool:
        score, mining, test = stage.score, stage.mine, self.recipe.data.test
        limit = self.recipe.evaluate.allowed(score)
        if why := steps.beyond(limit, score, self.collection, test, mining.searching, mining.depth, self.store):
            say("evaluate", f"the teacher is left out: {why}")
        return not why

    def _teacher(self, stage: Stage) -> tuple[Any, Maker]:
        """The last round's teachers over what its sources find for the test queries."""
        score, mining = stage.score, stage.mine
        train = stage.folder / "mine" / "candidates.parquet"
        learnt_from = Candidates.read(train) if isinstance(score.combine, Learnt) else None
        identity = [
            judging.identities(self.collection, score.teachers),
            judging.identities(self.collection, mining.searching),
            score.combine and cast(Any, score.combine).unfiltered().model_dump(exclude={"weigh"}),
            mining.depth,
            *([learnt_from.digest] if learnt_from else []),
            *code_of(score, mining).values(),
        ]
        return identity, partial(
            steps.evaluate_teacher,
            self.collection,
            self.recipe.data.test,
            sources=mining.searching,
            depth=mining.depth,
            teachers=score.teachers,
            store=self.store,
            combine=score.combine,
            learnt_from=learnt_from,
            metrics=self.recipe.evaluate.metrics,
        )

    def system_of(self, stage: Stage, train: Train, model: str) -> Part:
        """What finds documents by a student: the student itself, or a cross-encoder over the mining's sources."""
        if cast(Any, train.student).emits != "pairs":
            return self._encoding(model)
        teacher = {"kind": "cross_encoder", "model": model}
        return Rerank(sources=stage.mine.searching, teacher=teacher, depth=stage.mine.depth)

    def _encoding(self, model: str) -> Part:
        """A model as a retriever that encodes in the asked precision."""
        return build("retriever", {**steps.retriever_spec(model), "precision": self.recipe.evaluate.precision})

    def before(self, stage: Stage, name: str) -> str:
        """The student as it was before training, cut and all, as a model of its own."""
        student, folder = cast(Any, stage.students[name].student), stage.place("before", name)
        if not made_of(folder, student.identity):
            with atomic_folder(folder) as temporary:
                student.save(student.load("cpu"), temporary)
                about = {"artefact": "model", "fingerprint": digest_of(student.identity)}
                write_json(temporary / MANIFEST, {**about, **circumstances()})
        return str(folder)


def opened(recipe: Recipe, made: bool = True) -> Collection:
    """The recipe's collection, with the queries held out, and those `made`, that it asks for."""
    data, collection = recipe.data, open_collection(recipe.data.path)
    if data.hold_out is not None:
        collection = collection.hold_out(data.train, data.hold_out)
    if data.queries and made:
        collection = collection.with_queries(make_queries(data.queries, collection, recipe.seed), data.train)
    return collection


def _labels(parts: Any) -> str:
    return ", ".join(part.label for part in parts)


def _suffix(name: str) -> str:
    return "" if name == "student" else f"-{name}"


def _named(stop: str, stage: Stage, name: str = "student") -> str:
    """A stop in words: which round's and which student's, where there are several."""
    return " ".join([stop, *([stage.name] if stage.name else []), *([name] if name != "student" else [])])


def _safe(label: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in label)
