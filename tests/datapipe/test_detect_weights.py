"""Weights of the detectors: found without a network, whole, their own, or refused in one line."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from detect_models import detector, make, noise, phrase, written
from safetensors.torch import load_file, save_file

from s2v.datapipe.backends.checkpoints import check_safetensors
from s2v.datapipe.backends.groundingdino_py import give_back_methods, read_config
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import WeightsError

HUB_ID = "IDEA-Research/grounding-dino-tiny"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A whole model folder, to be damaged."""
    return Path(shutil.copytree(written(root, "grounding_dino"), tmp_path / "dino"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty Hugging Face cache, and a network that nobody may touch.

    The libraries are told that they are online, as on a user's machine.
    """
    import huggingface_hub.constants

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path / "hub"


def loading(folder: Path | str, **options: Any) -> None:
    make("detector", "grounding_dino", weights=str(folder), **options).load()


def edited(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_model_folder_loads_without_a_single_connection(folder: Path, no_network: Path) -> None:
    loading(folder)


def test_a_hub_id_that_is_not_cached_says_how_to_fetch_it_and_fetches_nothing(
    no_network: Path,
) -> None:
    with pytest.raises(WeightsError, match=rf"run `hf download {HUB_ID}`, or set download = true"):
        make("detector", "grounding_dino", weights=HUB_ID)
    with pytest.raises(WeightsError, match=rf"hf download {HUB_ID} --revision v2"):
        make("detector", "grounding_dino", weights=HUB_ID, revision="v2")


def test_a_cached_hub_id_is_used_without_a_single_connection(
    folder: Path, no_network: Path
) -> None:
    cached = no_network / f"models--{HUB_ID.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("a" * 40))
    made = make("detector", "grounding_dino", weights=HUB_ID)
    assert made.model_id == make("detector", "grounding_dino", weights=str(folder)).model_id
    made.load()


def test_a_download_that_was_asked_for_and_failed_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **told: Any) -> None:
        assert not told["local_files_only"]
        raise OSError("Network is unreachable")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(Network is unreachable\)"):
        make("detector", "grounding_dino", weights=HUB_ID, download=True)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.json", r"config\.json missing or empty"),
        ("preprocessor_config.json", r"preprocessor_config\.json missing or empty"),
        ("model.safetensors", r"neither model\.safetensors nor model\.safetensors\.index\.json"),
        ("vocab.txt", r"no tokenizer \(tokenizer\.json or vocab\.txt\)"),
    ],
)
def test_what_is_missing_is_named_before_a_run_starts(
    folder: Path, lost: str, message: str
) -> None:
    (folder / lost).unlink()
    with pytest.raises(WeightsError, match=message) as caught:
        make("detector", "grounding_dino", weights=str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere: no such folder; expected a Grounding DINO"):
        make("detector", "grounding_dino", weights=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9999])
def test_a_safetensors_file_cut_short_is_told_by_its_size(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: max(5, int(len(whole) * kept))])
    with pytest.raises(WeightsError, match=r"model\.safetensors: .*cut short.*fetch it again"):
        loading(folder)


def test_garbage_is_no_safetensors_file(tmp_path: Path) -> None:
    for data in (
        b"",
        b"\x05\0\0\0\0\0\0\0[1,2]",
        b"\x02\0\0\0\0\0\0\0{}extra",
        b"<html>404</html>",
    ):
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"model\.safetensors"):
            check_safetensors(path)


def test_sharded_weights_load_and_a_missing_shard_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({n: tensors[n] for n in own}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    where = {n: file for file, own in shards.items() for n in own}
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    loading(folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-2\.safetensors: no such file"):
        loading(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../other.safetensors"}}))
    with pytest.raises(WeightsError, match="names no shards beside it"):
        loading(folder)


def test_another_models_folder_is_told_by_its_type(folder: Path) -> None:
    edited(folder / "config.json", model_type="owlvit")
    with pytest.raises(WeightsError, match=r"model_type is 'owlvit', not 'grounding-dino'"):
        loading(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: not readable as JSON"):
        loading(folder)


def test_weights_of_another_size_than_the_configuration_says_are_refused(folder: Path) -> None:
    edited(folder / "config.json", num_queries=13)
    with pytest.raises(
        WeightsError, match=r"0 weights missing, 1 of another shape .*query_position"
    ):
        loading(folder)


def test_missing_weights_are_refused_instead_of_made_up(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    gone = next(n for n in sorted(tensors) if "text_projection" in n)
    del tensors[gone]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 weights missing, 0 of .*text_projection"):
        loading(folder)


def test_a_tokenizer_with_separators_elsewhere_would_run_phrases_together(folder: Path) -> None:
    path = folder / "vocab.txt"
    tokens = path.read_text().splitlines()
    tokens[1012], tokens[5] = tokens[5], tokens[1012]
    path.write_text("\n".join(tokens) + "\n")
    with pytest.raises(WeightsError, match=r"has '\.' at 5, not at 1012"):
        loading(folder)


def test_weights_that_differ_between_machines_are_refused(folder: Path, root: Path) -> None:
    made = make("detector", "grounding_dino", weights=str(folder))
    other = written(root, "grounding_dino", 1) / "model.safetensors"
    shutil.copy(other, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="not the files that this run started with"):
        made.load()


def test_an_unknown_option_names_the_nearest_known_one(folder: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean 'box_threshold'"):
        make("detector", "grounding_dino", weights=str(folder), box_treshold=0.3)
    with pytest.raises(SettingsError, match="weights: Field required"):
        make("detector", "grounding_dino")


def py_options(folder: Path, **changed: Any) -> dict[str, Any]:
    return {
        "weights": str(folder / "model.pth"),
        "config": str(folder / "config.py"),
        "text_encoder": str(folder / "bert"),
        **changed,
    }


def test_the_package_loads_without_a_connection_and_leaves_transformers_alone(
    root: Path, no_network: Path
) -> None:
    from groundingdino.util import get_tokenlizer
    from transformers import BertModel

    methods = ("get_extended_attention_mask", "get_head_mask", "invert_attention_mask")
    before = [hasattr(BertModel, name) for name in methods]
    kept = get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model
    made = make("detector", "groundingdino_py", **py_options(written(root, "groundingdino_py")))
    made.load()
    assert [hasattr(BertModel, name) for name in methods] == before
    assert kept == (get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model)


def test_the_methods_given_back_mask_as_bert_itself_does() -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    bert = BertModel(BertConfig(**tiny_models.BERT)).eval()
    given = give_back_methods(bert)
    ids = torch.arange(1030, 1036)[None]
    flat = torch.tensor([[1, 1, 1, 1, 0, 0]])
    square = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3))[None]
    with torch.no_grad():
        for mask, wanted in (
            (flat, bert(ids, flat)),
            (square, bert(ids, square[:, None].bool())),
        ):
            extended = given.get_extended_attention_mask(mask, ids.shape, "cpu")
            got = bert.encoder(bert.embeddings(ids), attention_mask=extended)[0]
            assert torch.allclose(got, wanted.last_hidden_state, atol=1e-5)
    assert given.get_head_mask(None, 2) == [None, None]


def test_a_configuration_file_is_read_and_never_run(tmp_path: Path) -> None:
    config, told = tmp_path / "config.py", tmp_path / "ran"
    config.write_text(
        f"import pathlib\nmodelname = 'groundingdino'\npathlib.Path({str(told)!r}).touch()\n"
    )
    assert read_config(str(config))["modelname"] == "groundingdino"
    assert not told.exists()
    config.write_text("modelname = open('x')\n")
    with pytest.raises(WeightsError, match="not plain assignments of values"):
        read_config(str(config))
    config.write_text("modelname = 'dab_detr'\n")
    with pytest.raises(WeightsError, match="another model's"):
        read_config(str(config))


@pytest.mark.parametrize("name", ["swint_ogc", "swinb"])
def test_published_configurations_are_in_the_package(name: str) -> None:
    found = read_config(name)
    assert found["num_queries"] == 900
    assert found["use_checkpoint"] is False


def test_weights_and_text_encoder_of_the_package_are_checked(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written(root, "groundingdino_py"), tmp_path / "py"))
    with pytest.raises(WeightsError, match=r"gone\.pth: no such file"):
        make("detector", "groundingdino_py", **py_options(folder, weights=str(folder / "gone.pth")))
    wider = folder / "wider.py"
    wider.write_text((folder / "config.py").read_text() + "\nnum_queries = 13\n")
    with pytest.raises(WeightsError, match=r"0 weights missing, 0 unknown, 1 of another"):
        make("detector", "groundingdino_py", **py_options(folder, config=str(wider))).load()
    path = folder / "model.pth"
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(WeightsError, match=r"model\.pth: cut short or no checkpoint"):
        make("detector", "groundingdino_py", **py_options(folder)).load()
    (folder / "bert" / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"bert: no tokenizer\.json or vocab\.txt"):
        make("detector", "groundingdino_py", **py_options(folder))


def test_names_that_only_training_uses_are_no_error(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written(root, "groundingdino_py"), tmp_path / "py"))
    published = torch.load(folder / "model.pth", weights_only=True)["model"]
    published["label_enc.weight"] = torch.zeros(3, 4)
    published["bert.embeddings.position_ids"] = torch.arange(4)
    saved = {"model": {f"module.{name}": tensor for name, tensor in published.items()}}
    torch.save(saved, folder / "model.pth")
    make("detector", "groundingdino_py", **py_options(folder)).load()


def test_bfloat16_gives_nearly_the_same_scores(root: Path) -> None:
    asked = [phrase("a cat"), phrase("a man in a red shirt")]
    for backend in ("grounding_dino", "groundingdino_py"):
        full, half = (detector(root, backend, dtype=d) for d in ("float32", "bfloat16"))
        full.load(), half.load()
        assert full.model_id != half.model_id
        a, b = (m.ground([noise(90, 160)], asked)[0] for m in (full, half))
        assert a, backend
        assert b, backend
        assert np.isfinite([hit.score for hit in b]).all()


def test_choosing_a_backend_imports_no_heavy_library() -> None:
    """The driver of a run imports every chosen backend; the libraries are for the workers."""
    code = (
        "import sys\n"
        "from s2v.datapipe.backends import grounding_dino, groundingdino_py, segment_anything\n"
        "heavy = {'torch', 'transformers', 'groundingdino', 'segment_anything', 'torchvision'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
