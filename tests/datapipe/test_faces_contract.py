"""Role ``faces``: what both backends promise, and insightface's adapter over real library code."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_faces import POINTS, face_picture, insightface_folder

from s2v.datapipe.backends import registry
from s2v.datapipe.backends.insightface import InsightFace
from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import FaceRecogniser, Image, Model, WeightsError


def make(backend: str, **options: Any) -> FaceRecogniser:
    build = registry.factory(registry.BACKENDS["faces"][backend])
    model = build(dict(options), "roles.faces", {})
    assert isinstance(model, Model)
    return model


@dataclass(frozen=True)
class Case:
    """A backend and pictures on which it finds one face, two, and none."""

    model: FaceRecogniser
    one: Image
    two: Image
    build: Callable[[], FaceRecogniser]


def photograph(name: str, side: int) -> Image:
    image = load_image(asset(name))
    scale = side / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module", params=["yunet_sface", "insightface"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "insightface":
        folder = insightface_folder(tmp_path_factory.mktemp("pack"))

        def build() -> FaceRecogniser:
            return make("insightface", weights=str(folder))

        one = face_picture(640, 360, [(300, 100, 96)])
        two = face_picture(640, 360, [(300, 100, 96), (60, 200, 48)])
    else:

        def build() -> FaceRecogniser:
            return make("yunet_sface")

        one = photograph("obama-1", 640)
        small = cv2.resize(photograph("biden", 640), None, fx=0.5, fy=0.5)
        two = np.zeros((max(one.shape[0], small.shape[0]), one.shape[1] + small.shape[1], 3))
        two = two.astype(np.uint8)
        two[: one.shape[0], : one.shape[1]] = one
        two[: small.shape[0], one.shape[1] :] = small
    model = build()
    model.load()
    return Case(model, one, two, build)


def test_a_face_has_its_box_points_score_and_a_vector_of_length_one(case: Case) -> None:
    (face,) = case.model.faces(case.one)
    height, width = case.one.shape[:2]
    x0, y0, x1, y1 = face.box
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert 0 < face.score <= 1
    assert face.points.shape == (5, 2)
    assert face.points.dtype == np.float32
    assert face.embedding.ndim == 1
    assert face.embedding.dtype == np.float32
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)


def test_points_come_as_eyes_nose_mouth_from_the_viewers_left_to_right(case: Case) -> None:
    (face,) = case.model.faces(case.one)
    left_eye, right_eye, nose, left_mouth, right_mouth = face.points
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    x0, y0, x1, y1 = face.box
    assert all(x0 <= x <= x1 and y0 <= y <= y1 for x, y in face.points)


def test_faces_come_largest_first_and_differ(case: Case) -> None:
    large, small = case.model.faces(case.two)
    areas = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in (large, small)]
    assert areas[0] > areas[1]
    assert not np.allclose(large.embedding, small.embedding, atol=1e-2)


def test_the_answer_depends_on_the_picture_alone(case: Case) -> None:
    def told(image: Image) -> list[object]:
        return [
            (f.box, f.score, f.points.tobytes(), f.embedding.tobytes()) for f in model.faces(image)
        ]

    model = case.model
    before = told(case.one)
    told(case.two)
    given = case.one.copy()
    assert told(given) == before
    assert np.array_equal(given, case.one), "the caller's picture was written to"
    model = case.build()
    assert told(case.one) == before


def test_a_picture_without_a_face_gives_none(case: Case) -> None:
    grey = np.full((240, 320, 3), 128, np.uint8)
    noise = np.random.default_rng(0).integers(90, 160, (240, 320, 3), dtype=np.uint8)
    assert case.model.faces(grey) == []
    assert case.model.faces(noise) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5), (8, 2000), (2000, 8)])
def test_tiny_and_stretched_pictures_are_no_crash(case: Case, size: tuple[int, int]) -> None:
    assert case.model.faces(np.full((*size, 3), 128, np.uint8)) == []


def test_a_portrait_picture_has_its_boxes_in_its_own_pixels(case: Case) -> None:
    (face,) = case.model.faces(case.one)
    top = 300
    tall = np.full((case.one.shape[0] + 2 * top, case.one.shape[1], 3), 128, np.uint8)
    tall[top:-top] = case.one
    (moved,) = case.model.faces(tall)
    side = face.box[2] - face.box[0]
    assert np.allclose(np.array(moved.box) - (0, top, 0, top), face.box, atol=0.1 * side)
    assert float(moved.embedding @ face.embedding) > 0.9


def test_a_picture_of_another_kind_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="RGB uint8"):
        case.model.faces(np.zeros((40, 40), np.uint8))
    with pytest.raises(ValueError, match="RGB uint8"):
        case.model.faces(np.zeros((40, 40, 3), np.float32))


def test_the_id_is_known_before_loading_and_the_model_travels_to_an_actor(case: Case) -> None:
    fresh = case.build()
    assert fresh.model_id == case.model.model_id
    sent = pickle.loads(pickle.dumps(fresh))  # noqa: S301  our own bytes, as Ray sends them
    assert sent.model_id == fresh.model_id
    assert len(sent.faces(case.one)) == 1


def test_other_weights_or_options_are_another_id(tmp_path: Path) -> None:
    first = insightface_folder(tmp_path / "pack")
    ids = {make("insightface", weights=str(first)).model_id}
    insightface_folder(first, seed=1)
    ids.add(make("insightface", weights=str(first)).model_id)
    for options in ({"det_size": 320}, {"det_threshold": 0.6}, {"padding_retry": False}):
        ids.add(make("insightface", weights=str(first), **options).model_id)
    assert len(ids) == 5


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return insightface_folder(tmp_path_factory.mktemp("weights") / "pack")


def test_insightface_boxes_and_points_are_where_the_squares_are(pack: Path) -> None:
    model = make("insightface", weights=str(pack))
    squares = [(300, 50, 120), (100, 80, 60), (500, 200, 30)]
    found = model.faces(face_picture(1280, 720, squares))
    assert len(found) == 3
    for face, (x, y, side) in zip(found, squares, strict=True):
        assert np.allclose(face.box, (x, y, x + side, y + side), atol=1.5)
        assert np.allclose(face.points, (x, y) + POINTS * side, atol=1.5)


def test_insightface_is_given_its_colours_in_its_own_order(pack: Path) -> None:
    model = make("insightface", weights=str(pack))
    picture = face_picture(640, 360, [(300, 100, 96)])
    assert len(model.faces(picture)) == 1
    assert model.faces(np.ascontiguousarray(picture[:, :, ::-1])) == []  # a blue square


def test_a_face_that_fills_the_frame_is_found_with_grey_around_it(pack: Path) -> None:
    picture = face_picture(200, 200, [(0, 0, 200)])
    small = {"weights": str(pack), "det_size": 320}
    assert make("insightface", **small, padding_retry=False).faces(picture) == []
    (face,) = make("insightface", **small).faces(picture)
    assert np.allclose(face.box, (0, 0, 200, 200), atol=4)
    assert np.allclose(face.points, POINTS * 200, atol=4)


def test_insightface_keeps_to_one_thread(pack: Path) -> None:
    model = make("insightface", weights=str(pack))
    model.load()
    assert isinstance(model, InsightFace)
    for task in model._app.models.values():
        options = task.session.get_session_options()
        assert options.intra_op_num_threads == 1
        assert options.inter_op_num_threads == 1


def test_no_weights_named_says_what_is_wanted_and_under_which_licence() -> None:
    with pytest.raises(WeightsError, match=r"roles.faces.weights is not set.*non-commercial") as e:
        make("insightface")
    assert "\n" not in str(e.value)


def test_a_mistyped_option_names_the_nearest_known() -> None:
    with pytest.raises(SettingsError, match="did you mean 'det_size'"):
        make("insightface", weights="x", det_sise=320)
    with pytest.raises(SettingsError, match="multiple of 32"):
        make("insightface", weights="x", det_size=600)


def broken(folder: Path, kind: str) -> None:
    """Damage a good pack."""
    detector, recogniser = folder / "det_tiny.onnx", folder / "rec_tiny.onnx"
    if kind == "truncated":
        recogniser.write_bytes(recogniser.read_bytes()[:-1000])
    elif kind == "no onnx":
        detector.write_bytes(b"<html>404 not found</html>" * 40)
    elif kind == "no detector":
        detector.unlink()
    elif kind == "no recogniser":
        recogniser.unlink()
    elif kind == "empty":
        detector.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", r"rec_tiny.onnx: truncated or no ONNX model"),
        ("no onnx", r"det_tiny.onnx: truncated or no ONNX model"),
        ("no detector", r"no detector with five landmarks.* among rec_tiny.onnx"),
        ("no recogniser", r"no recogniser .*112 x 112.* among det_tiny.onnx"),
        ("empty", r"det_tiny.onnx: is empty"),
    ],
)
def test_a_damaged_pack_is_one_line_that_names_the_file(
    tmp_path: Path, kind: str, message: str
) -> None:
    folder = insightface_folder(tmp_path / "pack")
    broken(folder, kind)
    with pytest.raises(WeightsError, match=message) as caught:
        make("insightface", weights=str(folder)).load()
    assert "\n" not in str(caught.value)


def test_a_pack_that_is_not_there_is_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("buffalo_l", "antelopev2", str(tmp_path / "nowhere")):
        with pytest.raises(WeightsError, match="no such folder"):
            make("insightface", weights=name)
    (tmp_path / "half").mkdir()
    with pytest.raises(WeightsError, match=r"holds no .onnx file"):
        make("insightface", weights=str(tmp_path / "half"))
    make("insightface", weights=str(insightface_folder(tmp_path / "pack"))).load()
    assert not (tmp_path / ".insightface").exists()


def packaged(folder: Path, **detection: str) -> Path:
    """A pack with insightface's manifest of version 2, its files in folders below."""
    flat = insightface_folder(folder)
    (flat / "models").mkdir()
    for name in ("det_tiny.onnx", "rec_tiny.onnx"):
        (flat / name).rename(flat / "models" / name)
    tasks = {
        "detection": {"file": "models/det_tiny.onnx", **detection},
        "recognition": {"file": "models/rec_tiny.onnx"},
    }
    manifest = {"manifest_version": 2, "model_id": "tiny", "license": "MODEL.LICENSE"}
    (flat / "manifest.json").write_text(json.dumps({**manifest, "tasks": tasks}))
    return flat


def test_a_pack_with_a_manifest_is_loaded_by_it(tmp_path: Path) -> None:
    picture = face_picture(640, 360, [(300, 100, 96)])
    model = make("insightface", weights=str(packaged(tmp_path / "a")))
    plain = make("insightface", weights=str(insightface_folder(tmp_path / "plain")))
    (one,), (other,) = model.faces(picture), plain.faces(picture)
    assert one.box == other.box
    assert np.allclose(one.embedding, other.embedding, atol=1e-5)
    assert model.model_id != plain.model_id
    wrong = make("insightface", weights=str(packaged(tmp_path / "b", sha256="0" * 64)))
    with pytest.raises(WeightsError, match="SHA-256 mismatch") as caught:
        wrong.load()
    assert "\n" not in str(caught.value)


def test_cuda_that_is_not_there_says_what_to_install(pack: Path) -> None:
    import onnxruntime

    model = make("insightface", weights=str(pack), device="cuda")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        model.load()
    else:
        with pytest.raises(WeightsError, match="onnxruntime-gpu"):
            model.load()
