import hashlib
import importlib
import sys
from typing import ClassVar, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from retrodistill.errors import InputError
from retrodistill.indexing.dense import Flat
from retrodistill.losses.divergences import KL
from retrodistill.mining.samplers import Top, Uniform
from retrodistill.registry import FAMILIES, Part, build, code_of, expand, of, part_class, table
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.retrieval.rerank import Rerank

ROWS = [(family, kind, part) for family in FAMILIES for kind, part in table(family).items()]


class Echo(Part):
    """A part kept outside the package."""

    argument: ClassVar[str | None] = "times"
    kind: Literal["echo"] = "echo"
    times: int = 1


class Nameless(Part):
    """A part that forgot its kind."""


@pytest.mark.parametrize(("family", "kind", "part"), ROWS)
def test_a_row_names_its_class_and_the_class_explains_itself(family, kind, part):
    assert get_args(part.model_fields["kind"].annotation) == (kind,)
    assert part.model_fields["kind"].default == kind
    assert part_class(family, kind) is part
    assert part.__doc__
    assert part.__doc__ not in {parent.__doc__ for parent in part.__mro__[1:]}
    assert part.argument is None or part.argument in part.model_fields


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_is_empty(family):
    assert table(family)


@pytest.mark.parametrize(
    ("family", "spec", "expected"),
    [
        ("loss", "kl", KL()),
        ("loss", {"kind": "kl", "temperature": 2}, KL(temperature=2.0)),
        ("loss", KL(temperature=3), KL(temperature=3)),
        ("index", "flat", Flat()),
        ("sampler", "top:30", Top(n=30)),
        ("sampler", {"kind": "uniform", "n": 3, "last": 9}, Uniform(n=3, last=9)),
        ("retriever", "dense:organisation/a.model", Dense(model="organisation/a.model")),
        ("retriever", "dense:./my.models:v2", Dense(model="./my.models:v2")),
        # What an override makes of a short form: the colon still counts, and a key of its own goes before it.
        ("retriever", {"kind": "dense:a/b", "max_length": 9}, Dense(model="a/b", max_length=9)),
        ("retriever", {"kind": "dense:a/b", "model": "c/d"}, Dense(model="c/d")),
    ],
)
def test_every_form_of_a_part(family, spec, expected):
    assert build(family, spec) == expected


def test_a_mapping_is_left_as_it_is():
    spec = {"kind": "dense:a/b"}
    assert expand("retriever", spec) == {"kind": "dense", "model": "a/b"}
    assert spec == {"kind": "dense:a/b"}


@pytest.mark.parametrize(
    ("family", "spec", "message"),
    [
        ("loss", "margin_mes", "unknown loss 'margin_mes'; did you mean 'margin_mse'?"),
        ("loss", {"kind": "zzz"}, "unknown loss 'zzz'; choose from "),
        ("index", "flat:4", "index 'flat' takes nothing behind a colon, got '4'; write 'flat'"),
        ("index", {"kind": "flat:4"}, "index 'flat' takes nothing behind a colon"),
        ("retriever", {"k1": 1.2}, "a retriever needs `kind:`; choose from bm25, "),
        ("retriever", {"kind": 3}, "a retriever needs `kind:`"),
        ("retriever", 3, "expected a retriever such as 'bm25', got 3"),
        ("retriever", ["bm25"], "expected a retriever such as 'bm25', got ['bm25']"),
        ("retriever", "bm52:x", "unknown retriever 'bm52'; did you mean 'bm25'?"),
        ("loss", "no.such.module:Loss", "loss 'no.such.module:Loss' cannot be imported: No module named 'no'"),
        ("loss", "json.decoder:Nothing", "cannot be imported: module 'json.decoder' has no attribute 'Nothing'"),
        ("loss", "json.decoder:JSONDecoder", "is no retrodistill.registry.Part; derive the class from it"),
        ("loss", f"{__name__}:Nameless", "has no kind of its own; give the class `kind: Literal[NAME] = NAME`"),
    ],
)
def test_what_is_no_part_is_refused_in_words(family, spec, message):
    with pytest.raises(InputError) as refused:
        build(family, spec)
    assert message in str(refused.value)


def test_wrong_options_are_all_told_by_pydantic():
    with pytest.raises(ValidationError) as refused:
        build("retriever", {"kind": "bm25", "k1": "much", "b": 2, "k2": 1})
    assert {error["loc"] for error in refused.value.errors()} == {("k1",), ("b",), ("k2",)}


def test_a_class_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "toys_of_a_stranger.py").write_text(
        "from typing import Literal\n"
        "from retrodistill.losses.batch import Loss\n"
        "class Toy(Loss):\n"
        "    'A toy.'\n"
        "    kind: Literal['toy'] = 'toy'\n"
        "    size: int = 1\n"
        "    def terms(self, batch): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toys_of_a_stranger", raising=False)
    found = build("loss", {"kind": "toys_of_a_stranger:Toy", "size": 3})
    assert (found.kind, found.size, found.label) == ("toy", 3, "toy")
    assert type(found) is importlib.import_module("toys_of_a_stranger").Toy
    assert build("loss", "toys_of_a_stranger:Toy").size == 1


BASE = "from retrodistill.losses.batch import Loss\nclass Base(Loss):\n    def terms(self, batch): ...\n"
DERIVED = (
    "from typing import Literal\nfrom base_of_a_stranger import Base\n"
    "class Toy(Base):\n    kind: Literal['toy'] = 'toy'\n    size: int = 1\n"
)


def test_the_code_of_a_class_from_elsewhere_is_that_of_its_file_and_its_bases(tmp_path, monkeypatch):
    files = {"base_of_a_stranger": BASE, "derived_of_a_stranger": DERIVED}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    toy = build("loss", "derived_of_a_stranger:Toy")
    expected = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    assert code_of(toy) == code_of([KL(), toy]) == {"code": expected}
    assert code_of(toy.model_copy(update={"size": 4})) == {"code": expected}
    (tmp_path / "base_of_a_stranger.py").write_text(BASE + "    size: int = 3\n")
    changed = code_of(toy)["code"]
    assert {name for name in files if changed[name] != expected[name]} == {"base_of_a_stranger"}


def test_parts_of_the_package_have_no_code_and_those_in_options_have_theirs():
    assert code_of(KL(), [Top(n=3)], BM25()) == {}
    within = Rerank(sources=(BM25(),), teacher="bm25", depth=3)
    assert code_of(within) == {}
    assert code_of(within.model_copy(update={"sources": (Echo(),)}))["code"].keys() == {__name__}


@pytest.mark.parametrize("made", [Echo(), Echo(times=4)])
def test_a_class_from_elsewhere_is_written_so_that_it_is_found_again(made):
    written = made.model_dump()
    assert written == {"kind": f"{__name__}:Echo", "times": made.times}
    assert build("sampler", written) == made
    assert made.model_dump(exclude={"kind"}) == {"times": made.times}
    field = TypeAdapter(of("sampler"))
    assert field.validate_json(field.dump_json(made)) == made


@given(
    k1=st.floats(0, 10),
    b=st.floats(0, 1),
    method=st.sampled_from(["lucene", "bm25+"]),
    stemmer=st.none() | st.just("french"),
)
def test_what_is_written_is_read_as_the_same_part(k1, b, method, stemmer):
    made = BM25(k1=k1, b=b, method=method, stemmer=stemmer)
    assert build("retriever", made.model_dump()) == made
    assert build("retriever", made.model_dump(mode="json")) == made


def test_the_label_is_the_short_form():
    assert [part.label for part in (Top(n=3, skip=1), Dense(model="a/b"), KL(), Echo(times=2))] == [
        "top:3",
        "dense:a/b",
        "kl",
        "echo:2",
    ]
    assert build("retriever", Dense(model="a/b").label) == Dense(model="a/b")


def test_a_part_does_not_change_and_takes_no_unknown_option():
    with pytest.raises(ValidationError):
        KL().temperature = 3
    with pytest.raises(ValidationError):
        KL(temprature=3)
    with pytest.raises(ValidationError):
        KL(kind="infonce")


def test_one_kind_in_two_tables_is_a_mistake_of_ours(monkeypatch):
    from retrodistill.mining import filters

    monkeypatch.setattr(filters, "SAMPLERS", {"top": Uniform}, raising=False)
    table.cache_clear()
    try:
        with pytest.raises(ValueError, match="'top' stands in two tables"):
            table("sampler")
    finally:
        monkeypatch.undo()
        table.cache_clear()


@pytest.mark.parametrize(
    ("source", "message"),
    [("def broken(:", r"SyntaxError: .*mistaken_plugin.py, line 1"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_a_plug_in_that_cannot_be_run_is_told(source, message, tmp_path, monkeypatch):
    (tmp_path / "mistaken_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=message):
        part_class("loss", "mistaken_plugin:Loss")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0, -1.0])
@pytest.mark.parametrize(
    ("family", "kind", "part"), [row for row in ROWS if row[0] in ("loss", "student", "combination")]
)
def test_a_temperature_is_a_finite_number_above_0(family, kind, part, value):
    names = [name for name in part.model_fields if name.endswith("temperature")]
    needed = {"model": "m"} if "model" in part.model_fields else {}
    for name in names:
        with pytest.raises(ValidationError, match=rf"(?s){name}.*(greater than 0|finite number)"):
            build(family, {"kind": kind, **needed, name: value})


def test_no_option_of_a_part_is_infinite():
    for spec in ({"kind": "infonce", "false_negative_margin": float("nan")}, {"kind": "mse", "scale": float("inf")}):
        with pytest.raises(ValidationError, match="finite number"):
            build("loss", spec)
