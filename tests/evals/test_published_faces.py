"""The three published face protocols with the real adapters over small random weights on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_faces import POINTS, face_picture, insightface_folder

from s2v.datapipe.base.assets.extract import sha256_of
from s2v.evals.encoders import Face
from s2v.evals.encoders.align import TEMPLATE, aligned, similarity_transform
from s2v.evals.encoders.curricular import CurricularFace, preprocess
from s2v.evals.encoders.face_pack import FacePack
from s2v.evals.encoders.local import PUBLISHED, Weights, _is_published
from s2v.evals.encoders.nets.ir101 import IR101
from s2v.evals.encoders.production import Encoders
from s2v.evals.errors import EvalError
from s2v.evals.metrics import build, protocols
from s2v.evals.metrics.base import Case, RefImage
from s2v.evals.metrics.face import detect_largest, face_score

TINY = ((8, 1), (8, 2), (16, 1), (16, 1))


def random_state(net: IR101, path: Path, seed: int = 0) -> Path:
    """A state dict in which nothing is at its initial value, running statistics included."""
    generator = torch.Generator().manual_seed(seed)
    state = net.state_dict()
    for name, value in state.items():
        if value.dtype.is_floating_point:
            spread = 1 / max(1, value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
            value.copy_(torch.randn(value.shape, generator=generator) * spread)
            if "running_var" in name or (value.ndim == 1 and name.endswith("weight")):
                value.abs_().add_(0.5)
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return insightface_folder(tmp_path_factory.mktemp("packs") / "buffalo_l")


@pytest.fixture(scope="module")
def ir101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole published architecture, 65 million random numbers."""
    return random_state(IR101(), tmp_path_factory.mktemp("cur") / "ir101.bin")


@pytest.fixture(scope="module")
def weights_file(pack: Path, ir101: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    other = insightface_folder(tmp_path_factory.mktemp("packs") / "antelopev2", seed=1)
    lines = []
    for folder in (pack, other):
        digests = ", ".join(f'"{f.name}" = "{sha256_of(f)}"' for f in sorted(folder.iterdir()))
        lines += [f"[{folder.name}]", f'path = "{folder}"', f"sha256 = {{ {digests} }}"]
    lines += ["[ir101]", f'path = "{ir101}"', f'sha256 = "{sha256_of(ir101)}"']
    file = tmp_path_factory.mktemp("weights") / "weights.toml"
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.4, 2.0), (-2.5, 0.3), (np.pi, 7.0)])
def test_a_known_turn_scale_and_shift_of_the_points_is_undone(angle: float, scale: float) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ turn.T + [13.0, -40.0]
    matrix = similarity_transform(points, TEMPLATE)
    back = points @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(back - TEMPLATE).max() < 1e-3


def test_a_mirrored_face_is_never_mirrored_back() -> None:
    mirrored = TEMPLATE * [-1, 1]
    assert np.linalg.det(similarity_transform(mirrored, TEMPLATE)[:, :2]) > 0
    with pytest.raises(ValueError, match="one place"):
        similarity_transform(np.ones((5, 2)), TEMPLATE)


def test_our_alignment_is_insightfaces() -> None:
    face_align = pytest.importorskip("insightface.utils.face_align")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (200, 240, 3), dtype=np.uint8)
    points = (TEMPLATE * 1.2 + [40, 20] + rng.normal(0, 2, (5, 2))).astype(np.float32)
    face = Face(np.zeros(4, np.float32), points, 1.0)
    for side in (112, 224):
        theirs = face_align.norm_crop(image, landmark=points, image_size=side)
        assert np.abs(aligned(image, face, side).astype(int) - theirs).max() <= 1


def test_aligning_at_224_and_shrinking_is_near_but_not_the_same() -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    image = cv2.resize(noise, (240, 240), interpolation=cv2.INTER_CUBIC)
    face = Face(np.zeros(4, np.float32), (TEMPLATE * 1.5 + 30).astype(np.float32), 1.0)
    ours = (preprocess(image, face)[0].permute(1, 2, 0).numpy() * 0.5 + 0.5) * 255
    difference = np.abs(ours - aligned(image, face, 112)).mean()
    assert 0 < difference < 6


def test_colours_reach_ir101_as_rgb_between_minus_one_and_one() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[..., 0] = 255
    face = Face(np.zeros(4, np.float32), (TEMPLATE + 40).astype(np.float32), 1.0)
    tensor = preprocess(image, face)
    assert tensor.shape == (1, 3, 112, 112)
    assert (tensor[0, 0] == 1).all()
    assert (tensor[0, 1:] == -1).all()


def test_ir101_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = IR101().state_dict()
    assert round(sum(v.numel() * v.itemsize for v in state.values()) / 1e6) == 261  # MB, the file
    assert state["body.0.res_layer.1.weight"].shape == (64, 64, 3, 3)
    assert state["body.3.shortcut_layer.0.weight"].shape == (128, 64, 1, 1)
    assert state["body.48.res_layer.4.running_var"].shape == (512,)
    assert "body.0.shortcut_layer.0.weight" not in state
    assert "body.49.res_layer.1.weight" not in state
    assert state["output_layer.3.weight"].shape == (512, 25088)
    assert "output_layer.4.weight" not in state


def test_another_architectures_checkpoint_is_refused_and_named(tmp_path: Path) -> None:
    tiny = random_state(IR101(TINY, dim=16), tmp_path / "tiny.pth")
    with pytest.raises(EvalError, match=r"tiny\.pth: not a state dict of IR101"):
        CurricularFace(tiny)
    short = tmp_path / "short.pth"
    short.write_bytes(tiny.read_bytes()[:1000])
    with pytest.raises(EvalError, match=r"short\.pth: no readable state dict"):
        CurricularFace(short)


def test_a_face_alone_and_in_a_batch_have_one_embedding(tmp_path: Path) -> None:
    net = IR101(TINY, dim=16)
    path = random_state(net, tmp_path / "tiny.pth")
    encoder = CurricularFace(path, IR101(TINY, dim=16))
    faces = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = encoder._net(faces)
        alone = torch.cat([encoder._net(f[None]) for f in faces])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_tight_crop_is_found_on_the_padded_image_and_aligned_from_it(pack: Path) -> None:
    picture = face_picture(96, 96, [(0, 0, 96)])
    model = FacePack(pack)
    assert model.detect(picture) == []
    face = detect_largest(model, picture)
    assert face is not None
    assert face.pad == (24, 24)
    assert np.abs(face.box - [0, 0, 96, 96]).max() < 4
    assert np.abs(face.points - POINTS * 96).max() < 4
    padded = np.pad(picture, ((24, 24), (24, 24), (0, 0)), constant_values=128)
    whole = Face(face.box + 24, face.points + 24, 1.0)
    assert np.allclose(model.embed(picture, face), model.embed(padded, whole), atol=1e-4)


def case(frames: list[Any], *references: Any) -> Case:
    refs = tuple(RefImage(r, is_face=True) for r in references)
    return Case(dict(enumerate(frames)), [i * 125_000 for i in range(len(frames))], refs)


def test_all_published_face_protocols_run_from_a_weights_file(weights_file: Path) -> None:
    encoders = Encoders(Weights.read(weights_file))
    metrics = build("published-faces", encoders)
    assert [m.spec.protocol.split("~")[0] for m in metrics] == list(protocols("published-faces"))
    mine, other = (face_picture(160, 120, [(40, 30, 48)], texture=t) for t in (1, 2))
    empty = np.full((120, 160, 3), 128, np.uint8)
    for metric in metrics:
        # Random weights: the id must say that these are not the published ones.
        assert len(metric.spec.protocol.split("~")[1]) == 8
        assert dict(metric.spec.digests)
        same = metric.measure(case([mine, empty], mine))
        assert same.score == pytest.approx(1.0, abs=2e-3), metric.spec.protocol
        strange = metric.measure(case([other], mine))
        assert strange.score is not None
        assert strange.score < 1.0 - 1e-3, metric.spec.protocol
        if metric.spec.rate:
            assert same.parts["face_rate"] == 0.5
        assert metric.measure(case([mine], empty)).reason == "reference_without_face"


def test_frames_of_consisid_and_opens2v_are_16_and_32(weights_file: Path) -> None:
    counts = {
        m.spec.protocol.split("~")[0]: len(m.plan(range(100)))
        for m in build("published-faces", Encoders(Weights.read(weights_file)))
    }
    assert counts.pop("facesim.cur@ir101.opens2v") == 32
    assert counts.pop("facesim.arc@buffalo_l.opens2v") == 32
    assert set(counts.values()) == {16}


def test_zero_keep_and_zero_drop_give_the_two_published_means() -> None:
    found = [0.6, -0.4, 0.0, 0.3]
    keep, parts = face_score(found, 8)
    drop, _ = face_score(found, 8, drop_zeros=True)
    assert (keep, drop) == (pytest.approx(0.225), pytest.approx(0.45))
    assert (parts["zero_keep"], parts["zero_drop"]) == (keep, drop)
    assert parts["unclamped"] == pytest.approx(0.125)
    assert parts["score_zero"] == pytest.approx(0.1125)
    assert face_score([], 8, drop_zeros=True)[0] == 0.0
    assert face_score([-0.2], 8, drop_zeros=True)[0] == 0.0


def test_weights_that_are_not_the_named_ones_are_refused(tmp_path: Path, ir101: Path) -> None:
    file = tmp_path / "weights.toml"
    file.write_text(f'[ir101]\npath = "{ir101}"\nsha256 = "{"0" * 64}"\n')
    with pytest.raises(EvalError, match="the weights file says 0000"):
        Weights.read(file).path("ir101")
    with pytest.raises(EvalError, match=r"facesim\.glint.*write \[antelopev2\]"):
        build("facesim.glint@antelopev2", Encoders(Weights.read(file)))
    for text, message in (
        ("[ir102]\npath='x'\nsha256='y'", "no weights are called 'ir102'"),
        ("[ir101]\npath='x'", "sha256"),
        ("[ir101]\npath='x'\nsha256='y'\nsha='z'", "sha"),
        ("ir101", "not a TOML file"),
    ):
        file.write_text(text)
        with pytest.raises(EvalError, match=message):
            Weights.read(file)
    file.write_text('[ir101]\npath = "no.bin"\nsha256 = "' + "a" * 64 + '"')
    with pytest.raises(EvalError, match=r"no\.bin: no such file"):
        Weights.read(file).path("ir101")
    file.write_text('[buffalo_l]\npath = "."\nsha256 = { "../x" = "' + "a" * 64 + '" }')
    with pytest.raises(EvalError, match="inside the folder"):
        Weights.read(file).path("buffalo_l")


def test_only_the_published_files_give_the_plain_protocol_id() -> None:
    for name, files in PUBLISHED.items():
        assert all(len(sha) == 64 for sha in files.values())
        assert _is_published(name, files)
        for part in files:
            assert not _is_published(name, {**files, part: "0" * 64})
        assert not _is_published(name, {**files, "another.onnx": "0" * 64})
    # Another network is given away under the name of antelopev2's.
    auraface = "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60"
    assert not _is_published("antelopev2", {**PUBLISHED["antelopev2"], "glintr100.onnx": auraface})
    assert not _is_published("dinov2", {"model.safetensors": "0" * 64})
