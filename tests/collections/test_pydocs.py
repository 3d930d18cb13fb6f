import sys
import textwrap

import pytest

from retrodistill.collections import open_collection, pydocs

BODY = "The body goes on at some length, so that it holds the twelve words that it needs."


@pytest.fixture
def tree(tmp_path):
    """Write modules into a tree of sources; give what is built from it."""

    def build(package="", **modules):
        for name, source in modules.items():
            path = tmp_path.joinpath("lib", *name.split("/")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        return pydocs.build([pydocs.Source(tmp_path / "lib", package)])

    return build


def function(name="f", summary="Do one thing to the input.", body=BODY, indent=""):
    return textwrap.indent(f'def {name}(a, b=1):\n    """{summary}\n\n    {body}\n    """\n', indent)


def test_an_entry(tree):
    (entry,) = tree(mod=function())
    assert entry == ("mod.f", "mod.f(a, b=1)", BODY, "Do one thing to the input.")


def test_modules_classes_methods_and_branches_are_read(tree):
    source = f'"""Hold a few useful things.\n\n{BODY} m\n"""\n'
    source += f'class C:\n    """Be a very useful class.\n\n    {BODY} c\n    """\n'
    source += function("method", "Do the third useful thing.", BODY + " x", "    ")
    source += "try:\n    import nothing\nexcept ImportError:\n" + function(
        "late", "Do the fourth useful thing.", BODY + " y", "    "
    )
    source += "if True:\n    pass\nelse:\n" + function("other", "Do the fifth useful thing.", BODY + " z", "    ")
    names = [
        entry.name
        for entry in tree(**{"mod": source, "pkg/__init__": function("g", "Do yet another useful thing.", BODY + " g")})
    ]
    assert names == ["mod", "mod.C", "mod.C.method", "mod.late", "mod.other", "pkg.g"]


def test_private_names_tests_and_broken_files_are_left_out(tree):
    modules = [
        "_private",
        "pkg/_private",
        "test/mod",
        "pkg/tests/mod",
        "site-packages/mod",
        "idlelib/mod",
        "not-a-name",
    ]
    built = tree(
        **{name: function() for name in modules},
        broken="def f(:\n",
        mod=function("_hidden") + "def outer():\n" + function("inner", indent="    "),
    )
    assert built == []


def test_numpy_keeps_modules_with_private_names(tree):
    assert [entry.name for entry in tree(package="numpy", **{"lib/_impl": function()})] == ["numpy.lib._impl.f"]


def test_summary_ends_with_its_sentence_or_its_paragraph(tree):
    source = function("one", "Say it at once.\n    And go on directly.", BODY)
    source += function("two", "Say this over\n    two lines", BODY + " x")
    one, two = tree(mod=source)
    assert (one.query, two.query) == ("Say it at once.", "Say this over two lines")
    assert one.body == "And go on directly.\n\n" + BODY


@pytest.mark.parametrize(
    "second",
    [
        function("g", "Too short here.", BODY + " x"),
        function("g", "Do another thing with it.", "Too little."),
        function("g", "do one  thing to the INPUT", BODY + " x"),
        function("g", "Do another thing with it.", BODY),
        function("g", "Say what is told below.", BODY + " As we said: say what is\n    told below, twice."),
    ],
    ids=["short query", "short body", "same summary", "same body", "leaked"],
)
def test_entries_that_make_no_good_pair_are_dropped(tree, second):
    assert [entry.name for entry in tree(mod=function() + second)] == ["mod.f"]


def test_nothing_is_imported(tree):
    source = "raise SystemExit('imported')\n" + function()
    assert len(tree(mod=source)) == 1 and "mod" not in sys.modules


def test_split_of_is_stable_and_about_80_10_10():
    splits = [pydocs.split_of(f"module.name{i}") for i in range(5000)]
    assert {split: pytest.approx(splits.count(split) / 5000, abs=0.02) for split in set(splits)} == {
        "train": 0.8, "dev": 0.1, "test": 0.1,
    }  # fmt: skip
    assert [pydocs.split_of(name) for name in ("json.dump", "heapq.merge", "numpy.ma.core")] == [
        "train",
        "train",
        "train",
    ]


def test_the_real_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRODISTILL_CACHE", str(tmp_path))
    collection = open_collection("builtin/pydocs")
    corpus, queries = collection.corpus, collection.queries
    assert collection.name == "builtin/pydocs" and collection.summary().startswith("builtin/pydocs: ")
    assert 2000 < len(corpus) < 4000 and len(corpus) == len(queries)
    assert corpus.ids == sorted(corpus.ids) and any(key.startswith("numpy.") for key in corpus.ids)
    assert not set(corpus.ids) & set(queries.ids), "an id on both sides would be dropped as a self-match"
    judged = [pair for split in collection.splits for pair in collection.qrels(split).items()]
    assert sorted(judged) == sorted((f"q/{key}", {key: 1}) for key in corpus.ids)
    shares = [len(collection.query_ids(split)) / len(queries) for split in ("train", "dev", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    for key, text in zip(corpus.ids, corpus.texts(), strict=True):
        assert " ".join(queries.text(f"q/{key}").split()) not in " ".join(text.split())
    assert len({text.lower() for text in queries.texts()}) == len(queries)

    def built_again(_):
        raise AssertionError("the second opening reads what the first has built")

    monkeypatch.setattr(pydocs, "build", built_again)
    assert open_collection("builtin/pydocs").digest == collection.digest
