"""Roles ``embedder`` and ``aesthetics``: what the backends promise, and open_clip's adapter."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_faces import CLIP_DIM, aesthetic_head, open_clip_config, open_clip_files

from s2v.datapipe.backends import registry
from s2v.datapipe.backends.open_clip import ClipEmbedder, LaionAesthetics, squared
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import ImageEmbedder, Model, WeightsError

SIZES = [(64, 64), (90, 40), (40, 90), (1, 1), (1, 30), (300, 500), (7, 7)]


def pictures(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in SIZES]


def make(role: str, backend: str, shared: dict[str, Any] | None = None, **options: object) -> Any:
    build = registry.factory(registry.BACKENDS[role][backend])
    return build(dict(options), f"roles.{role}", {} if shared is None else shared)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    config, weights = open_clip_files(tmp_path_factory.mktemp("clip"))
    return {"model": str(config), "weights": str(weights)}


@dataclass(frozen=True)
class Case:
    model: ImageEmbedder
    build: Callable[[], ImageEmbedder]


@pytest.fixture(scope="module", params=["appearance", "open_clip"])
def case(request: pytest.FixtureRequest, clip: dict[str, str]) -> Case:
    def build() -> ImageEmbedder:
        made = make("embedder", request.param, **(clip if request.param == "open_clip" else {}))
        assert isinstance(made, Model)
        return made

    model = build()
    model.load()
    return Case(model, build)


def test_pictures_of_any_size_give_vectors_of_length_one(case: Case) -> None:
    vectors = case.model.embed(pictures())
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == len(SIZES)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert case.model.embed([]).shape == (0, vectors.shape[1])


def test_a_vector_depends_on_its_picture_and_not_on_its_neighbours(case: Case) -> None:
    images = pictures()
    together = case.model.embed(images)
    alone = np.concatenate([case.model.embed([image]) for image in images])
    turned = case.model.embed(images[::-1])[::-1]
    many = case.model.embed((pictures(1) * 6)[:37] + images)[-len(images) :]
    for other in (alone, turned, many):
        assert np.array_equal(together, other)
    assert np.array_equal(case.build().embed(images), together)


def test_different_pictures_have_different_vectors(case: Case) -> None:
    red, blue = (np.zeros((80, 80, 3), np.uint8) for _ in range(2))
    red[20:60, 20:60], blue[10:30, 40:70] = (220, 20, 20), (20, 20, 220)
    a, b = case.model.embed([red, blue])
    assert float(a @ b) < 0.97


def test_what_is_no_picture_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="RGB uint8"):
        case.model.embed([np.zeros((40, 40), np.uint8)])


def test_the_id_is_known_before_loading_and_the_model_travels_to_an_actor(case: Case) -> None:
    fresh = case.build()
    assert fresh.model_id == case.model.model_id
    sent = pickle.loads(pickle.dumps(fresh))  # noqa: S301  our own bytes, as Ray sends them
    assert sent.model_id == fresh.model_id
    assert np.array_equal(sent.embed(pictures()[:1]), case.model.embed(pictures()[:1]))


def test_whatever_changes_a_vector_is_another_id(clip: dict[str, str], tmp_path: Path) -> None:
    _, other = open_clip_files(tmp_path, seed=1)
    config = open_clip_config(tmp_path / "other" / "tiny.json", image_size=96)
    ids = {
        make("embedder", "open_clip", **{**clip, **changed}).model_id
        for changed in (
            {},
            {"weights": str(other)},
            {"model": str(config)},
            {"dtype": "bfloat16"},
            {"pad": False},
            {"preprocess": {"mean": [0.5, 0.5, 0.5]}},
        )
    }
    assert len(ids) == 6
    same = make("embedder", "open_clip", **clip, batch=4, device="cpu").model_id
    assert same in ids, "batch and device change no vector"


def test_open_clips_own_pre_processing_is_what_the_tower_sees(clip: dict[str, str]) -> None:
    import open_clip
    from PIL import Image

    model = make("embedder", "open_clip", **clip, pad=False)
    config = json.loads(Path(clip["model"]).read_text())
    net = open_clip.model.CLIP(**config)
    open_clip.load_checkpoint(net, clip["weights"])
    net.eval()
    prepare = open_clip.image_transform(64, is_train=False)
    image = pictures()[1]
    with torch.inference_mode():
        wanted = net.encode_image(prepare(Image.fromarray(image))[None], normalize=True).numpy()
        words = open_clip.get_tokenizer("ViT-B-32")(["a cat"])
        wanted_text = net.encode_text(words, normalize=True).numpy()
    assert np.allclose(model.embed([image]), wanted, atol=1e-5)
    assert np.allclose(model.embed_text(["a cat"]), wanted_text, atol=1e-5)


def test_the_whole_of_a_standing_person_is_seen(clip: dict[str, str]) -> None:
    tall = np.full((300, 100, 3), 90, np.uint8)
    capped = tall.copy()
    capped[:40] = (255, 0, 0)
    padded = make("embedder", "open_clip", **clip)
    a, b = padded.embed([tall, capped])
    assert float(a @ b) < 0.999
    a, b = make("embedder", "open_clip", **clip, pad=False).embed([tall, capped])
    assert float(a @ b) == pytest.approx(1, abs=1e-6)  # the centre crop cuts the red off
    assert squared(tall).shape == (300, 300, 3)
    assert np.array_equal(squared(tall)[:, 100:200], tall)


def test_texts_stand_in_the_same_space(clip: dict[str, str]) -> None:
    model = make("embedder", "open_clip", **clip)
    texts = ["a cat", "", "a very long text " * 200]
    vectors = model.embed_text(texts)
    assert vectors.shape == (3, CLIP_DIM)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(model.embed_text(texts[2:])[0], vectors[2])
    assert model.embed_text([]).shape == (0, CLIP_DIM)


def test_one_clip_serves_both_roles_when_it_is_the_same(
    clip: dict[str, str], tmp_path: Path
) -> None:
    head = str(aesthetic_head(tmp_path / "head.pth"))
    shared: dict[str, Any] = {}
    embedder = make("embedder", "open_clip", shared, **clip)
    scorer = make("aesthetics", "laion", shared, clip=clip, head=head)
    assert isinstance(embedder, ClipEmbedder)
    assert isinstance(scorer, LaionAesthetics)
    assert scorer._tower is embedder._tower
    half = make("aesthetics", "laion", shared, clip={**clip, "dtype": "bfloat16"}, head=head)
    assert half._tower is not embedder._tower


def test_a_score_is_the_head_on_the_vector_alone(clip: dict[str, str], tmp_path: Path) -> None:
    vectors = make("embedder", "open_clip", **clip, pad=False).embed(pictures())
    for kind, suffix in (("mlp", "safetensors"), ("linear", "pth")):
        path = aesthetic_head(tmp_path / f"{kind}.{suffix}", kind=kind)
        model = make("aesthetics", "laion", clip=clip, head=str(path))
        scores = model.score(pictures())
        read = load_file if suffix == "safetensors" else partial(torch.load, weights_only=True)
        state = read(path)
        out = torch.from_numpy(vectors)
        for name in [n for n in state if n.endswith("weight")]:
            out = out @ state[name].T + state[name.replace("weight", "bias")]
        assert np.allclose(scores, out[:, 0].numpy(), atol=2e-4)
        assert scores[2] == model.score(pictures()[2:3])[0]
        assert model.score([]) == []
        assert len(set(scores)) > 1


def test_other_heads_are_other_ids(clip: dict[str, str], tmp_path: Path) -> None:
    heads = [aesthetic_head(tmp_path / f"{n}.pth", seed=n) for n in range(2)]
    ids = {make("aesthetics", "laion", clip=clip, head=str(head)).model_id for head in heads}
    assert len(ids) == 2


def test_openais_clip_is_what_laions_head_wants_by_default(tmp_path: Path) -> None:
    head, weights = aesthetic_head(tmp_path / "h.pth"), tmp_path / "w.safetensors"
    weights.write_bytes(b"x")
    made = make("aesthetics", "laion", head=str(head), clip={"weights": str(weights)})
    assert "ViT-L-14-quickgelu" in made.model_id


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code of a stranger ran",))


CHANGED: dict[str, dict[str, str | None]] = {
    "tag": {"weights": "laion2b_s34b_b79k"},
    "hub": {"model": "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"},
    "unnamed": {"weights": None},
    "architecture": {"model": "ViT-B-33"},
}
CONFIGURATIONS = {"no configuration": '{"embed_dim": 64}', "not json": "<html>"}


def damaged(kind: str, clip: dict[str, str], folder: Path) -> dict[str, Any]:
    """Options of an embedder whose files are wrong in one way."""
    if kind in CHANGED:
        return {**clip, **CHANGED[kind]}
    if kind == "other size":
        return {**clip, "model": str(open_clip_config(folder / "other.json", image_size=96))}
    if kind in CONFIGURATIONS:
        (folder / "bad.json").write_text(CONFIGURATIONS[kind])
        return {**clip, "model": str(folder / "bad.json")}
    path = folder / (
        "bad.pt" if kind in ("pickle", "torch truncated", "torchscript") else "bad.safetensors"
    )
    if kind == "other model":
        save_file({"conv1.weight": torch.zeros(3)}, str(path))
    elif kind == "pickle":
        torch.save({"visual.proj": Malicious()}, path)
    elif kind == "torchscript":
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    elif kind == "torch truncated":
        torch.save({"visual.proj": torch.zeros(300)}, path)
        path.write_bytes(path.read_bytes()[:-500])
    elif kind != "missing":
        whole = Path(clip["weights"]).read_bytes()
        cut = {"truncated": whole[:-1000], "empty": b"", "html": b"<html>404</html>" * 20}
        path.write_bytes(cut[kind])
    return {**clip, "weights": str(path)}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"bad.safetensors: no such file; expected a CLIP state dict.*download"),
        ("tag", r"laion2b_s34b_b79k.*tag or hub name is not looked up; fetch it once by hand"),
        ("hub", r"nothing is downloaded in a run; fetch it once by hand"),
        ("unnamed", r"roles.embedder.weights is not set"),
        ("architecture", r"no architecture 'ViT-B-33'"),
        ("other size", r"weights of another model.*positional_embedding"),
        ("no configuration", r"bad.json.*lacks vision_cfg, text_cfg"),
        ("not json", r"bad.json: not a JSON object"),
        ("truncated", r"bad.safetensors: .*cut short"),
        ("torch truncated", r"bad.pt: cut short"),
        ("torchscript", r"bad.pt: a TorchScript archive.*save its state dict"),
        ("empty", r"bad.safetensors: is empty"),
        ("html", r"bad.safetensors: cut short, or no safetensors file"),
        ("pickle", r"bad.pt: not a plain checkpoint of tensors"),
        ("other model", r"bad.safetensors: the weights of another model"),
    ],
)
def test_wrong_weights_are_one_line_with_the_way_out(
    kind: str,
    message: str,
    clip: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    options = damaged(kind, clip, tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        make("embedder", "open_clip", **options).load()
    assert "\n" not in str(caught.value)
    assert "stranger" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "message"),
    [("unset", r"roles.aesthetics.head is not set"), ("dim", r"no MLP .* vectors of 64 numbers"),
     ("clip", r"no linear .* vectors of 64 numbers"), ("missing", r"head.pth: no such file")],
)  # fmt: skip
def test_a_head_of_another_clip_is_refused(
    kind: str, message: str, clip: dict[str, str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"clip": clip, "head": str(tmp_path / "head.pth")}
    if kind == "unset":
        del options["head"]
    elif kind != "missing":
        aesthetic_head(tmp_path / "head.pth", kind="mlp" if kind == "dim" else "linear", dim=768)
    with pytest.raises(WeightsError, match=message) as caught:
        make("aesthetics", "laion", **options).load()
    assert "\n" not in str(caught.value)


def test_a_mistyped_option_names_the_nearest_known(clip: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="did you mean 'weights'"):
        make("embedder", "open_clip", model="ViT-B-32", weigths="x")
    with pytest.raises(SettingsError, match="did you mean 'preprocess'"):
        make("aesthetics", "laion", clip={**clip, "preproces": {}}, head="x")
    with pytest.raises(SettingsError, match="float16 needs a GPU"):
        make("embedder", "open_clip", **clip, dtype="float16", device="cpu").load()


def test_half_precision_stays_near(clip: dict[str, str]) -> None:
    full = make("embedder", "open_clip", **clip).embed(pictures())
    half = make("embedder", "open_clip", **clip, dtype="bfloat16").embed(pictures())
    assert ((full * half).sum(axis=1) > 0.99).all()
    assert not np.array_equal(full, half)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_on_a_gpu_neighbours_change_nothing_either(clip: dict[str, str]) -> None:
    model = make("embedder", "open_clip", **clip, device="cuda", batch=4)
    images = pictures()
    alone = np.concatenate([model.embed([image]) for image in images])
    assert np.array_equal(model.embed(images), alone)
    on_cpu = make("embedder", "open_clip", **clip, device="cpu").embed(images)
    assert np.allclose(alone, on_cpu, atol=1e-3)
