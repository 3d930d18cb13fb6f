from retrodistill import recipe
from retrodistill.collections import open_collection
from retrodistill.pipeline import run
from retrodistill.retrieval.sparse import Splade
from retrodistill.steps import evaluate

RECIPE = """\
name: sparse
data: {data}
runs: {folder}/runs
store: {folder}/scores
mine: {{sources: [bm25, 'splade:{model}'], depth: 8}}
score: {{teachers: [bm25, 'splade:{model}']}}
train:
  student: {{kind: splade, model: {model}, dropout: 0, flops: {{query: 1.0e-3, document: 1.0e-3}}}}
  losses: [kl]
  epochs: 3
  learning_rate: 5.0e-3
  batch_size: 4
  documents: 4
  precision: fp32
index: inverted
evaluate: {{metrics: [nDCG@10], baselines: [bm25]}}
"""


def test_the_whole_road_with_a_sparse_student(tiny_splade, collection_folder, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(data=collection_folder, folder=tmp_path, model=tiny_splade))
    found = run(recipe.load(path))
    assert found.keys() == {"before", "student", "teacher", "bm25"}
    student = tmp_path / "runs/sparse/train"
    again, _ = evaluate(Splade(model=str(student)), open_collection(collection_folder), metrics=["nDCG@10"])
    assert again.metrics["nDCG@10"] == found["student"].metrics["nDCG@10"]
