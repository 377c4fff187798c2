"""The embedded vision nets with their real weights on real photographs and clips."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image as Pillow

from s2v.datapipe.base import assets
from s2v.datapipe.base.embedded.efficientnet import EfficientNetLite
from s2v.datapipe.base.embedded.mobilenet import MobileNetV2
from s2v.datapipe.base.embedded.net import Image, clip_box, require
from s2v.datapipe.base.embedded.nsfw import OpenNsfw
from s2v.datapipe.base.embedded.sface import SFace, align
from s2v.datapipe.base.embedded.ssd import SsdMobileNet
from s2v.datapipe.base.embedded.u2netp import U2NetP, largest_component
from s2v.datapipe.base.embedded.yunet import YuNet

pytestmark = pytest.mark.assets

FACES = {
    "man-photo": 1,
    "group-photo": 5,
    "obama-1": 1,
    "obama-2": 1,
    "obama-3": 1,
    "biden": 1,
    "astronaut": 1,
    "cat": 0,
    "coffee": 0,
    "quokka": 0,
    "motorcycle": 0,
}


@pytest.fixture(scope="module", autouse=True)
def weights_and_media() -> None:
    nets = ["yunet", "sface", "ssd-mobilenet-v2", "efficientnet-lite3", "u2netp", "mobilenet-v2"]
    assets.fetch([*nets, "opennsfw", *FACES, "rocket", "man-clip", "bbb-film"])


def photo(name: str) -> Image:
    return np.asarray(Pillow.open(assets.asset(name)).convert("RGB"))


def frame(name: str, index: int) -> Image:
    with av.open(str(assets.asset(name))) as container:
        for number, decoded in enumerate(container.decode(video=0)):
            if number == index:
                return np.asarray(decoded.to_ndarray(format="rgb24"))
    raise AssertionError(f"{name} has no frame {index}")


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    return YuNet.from_assets()


@pytest.fixture(scope="module")
def sface() -> SFace:
    return SFace.from_assets()


@pytest.mark.parametrize(("name", "count"), FACES.items())
def test_as_many_faces_are_found_as_a_person_counts(yunet: YuNet, name: str, count: int) -> None:
    assert len(yunet(photo(name))) == count


def test_landmarks_come_in_arcface_order(yunet: YuNet) -> None:
    for face in yunet(photo("group-photo")):
        left, right, nose, mouth_left, mouth_right = face.points
        assert left[0] < right[0]
        assert mouth_left[0] < mouth_right[0]
        assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
        x0, y0, x1, y1 = face.box
        assert (face.points[:, 0] >= x0).all()
        assert (face.points[:, 0] <= x1).all()
        assert (face.points[:, 1] >= y0).all()
        assert (face.points[:, 1] <= y1).all()


def test_boxes_of_large_images_are_in_their_own_pixels(yunet: YuNet) -> None:
    image = photo("man-photo")
    doubled = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    small, large = yunet(image)[0].box, yunet(doubled)[0].box
    assert iou(small, tuple(value / 3 for value in large)) > 0.85


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inner = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return inner / (sum(areas) - inner)


def test_the_same_person_is_nearer_than_any_other(yunet: YuNet, sface: SFace) -> None:
    names = ["obama-1", "obama-2", "obama-3", "biden", "astronaut", "man-photo"]
    images = {name: photo(name) for name in names} | {"man-clip": frame("man-clip", 30)}
    vectors = {name: sface.embed(image, yunet(image))[0] for name, image in images.items()}
    same = [{"obama-1", "obama-2"}, {"obama-1", "obama-3"}, {"obama-2", "obama-3"}]
    same.append({"man-photo", "man-clip"})
    near, far = [], []
    for a, b in combinations(vectors, 2):
        cosine = float(vectors[a] @ vectors[b])
        (near if {a, b} in same else far).append(cosine)
    assert len(near) == 4
    assert min(near) > 0.5  # OpenCV's own threshold is 0.363
    assert max(far) < 0.363


def test_alignment_and_vectors_are_opencvs_own(yunet: YuNet, sface: SFace) -> None:
    image = photo("astronaut")
    face = yunet(image)[0]
    reference = cv2.FaceRecognizerSF.create(str(assets.asset("sface")), "")
    x0, y0, x1, y1 = face.box
    row = np.array([x0, y0, x1 - x0, y1 - y0, *face.points.ravel(), face.score], np.float32)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    aligned = reference.alignCrop(bgr, row)
    difference = np.abs(aligned[:, :, ::-1].astype(int) - align(image, face.points).astype(int))
    assert difference.mean() < 1
    theirs = reference.feature(aligned).ravel()
    ours = sface.embed(image, [face])[0]
    assert float(theirs @ ours) / float(np.linalg.norm(theirs)) > 0.999


def test_no_faces_give_no_vectors(sface: SFace) -> None:
    assert sface.embed(photo("cat"), []).shape == (0, 128)


@pytest.mark.parametrize(
    ("name", "label"),
    [("cat", "cat"), ("motorcycle", "motorcycle"), ("coffee", "cup"), ("man-photo", "person")],
)
def test_the_detector_names_the_main_object(name: str, label: str) -> None:
    best = SsdMobileNet.from_assets().detect(photo(name))[0]
    assert best.label == label
    assert best.score > 0.8


def test_every_face_of_the_group_lies_in_a_person_box(yunet: YuNet) -> None:
    image = photo("group-photo")
    people = [d.box for d in SsdMobileNet.from_assets().detect(image, 0.5) if d.label == "person"]
    assert len(people) >= 5
    for face in yunet(image):
        x, y = face.points[2]
        assert any(b[0] < x < b[2] and b[1] < y < b[3] for b in people)


def test_a_lower_threshold_only_adds_detections() -> None:
    detector, image = SsdMobileNet.from_assets(), photo("astronaut")
    few, many = detector.detect(image, 0.5), detector.detect(image, 0.1)
    assert many[: len(few)] == few
    assert len(many) > len(few)
    height, width = image.shape[:2]
    for item in many:
        assert 0 <= item.box[0] < item.box[2] <= width
        assert 0 <= item.box[1] < item.box[3] <= height


def test_the_tagger_knows_animals_from_things() -> None:
    tagger = EfficientNetLite.from_assets()
    assert "cat" in tagger.tag(photo("cat"))[0].label
    assert tagger.tag(photo("coffee"))[0].label == "espresso"
    assert tagger.creature_probability(photo("quokka")) > 0.9
    assert tagger.creature_probability(photo("motorcycle")) < 0.1
    probs = tagger.probabilities(photo("cat"))
    assert probs.shape == (1000,)
    assert 0.9 < probs.sum() < 1.1


def test_masks_hold_the_subject_and_not_the_background() -> None:
    net, image = U2NetP.from_assets(), photo("man-photo")
    face = YuNet.from_assets()(image)[0]
    saliency = net.saliency(image)
    x0, y0, x1, y1 = clip_box(face.box, image.shape[1], image.shape[0])
    assert saliency[y0:y1, x0:x1].mean() > 0.95
    assert saliency[:60].mean() < 0.05  # sky above his head
    smaller = U2NetP.from_assets(side=224)
    assert smaller.model_id != net.model_id
    a, b = saliency > 0.5, smaller.saliency(image) > 0.5
    assert (a & b).sum() / (a | b).sum() > 0.9


def test_a_box_prompts_the_mask_of_what_is_in_it() -> None:
    net, image = U2NetP.from_assets(side=224), photo("group-photo")
    height, width = image.shape[:2]
    face = YuNet.from_assets()(image)[-1]  # the smallest
    x0, y0, x1, y1 = face.box
    box = (x0 - 60, y0 - 40, x1 + 60, y1 + 150)
    mask = net.segment_box(image, box, margin=0.1)
    assert mask.shape == (height, width)
    outside = mask.copy()
    left, top, right, bottom = clip_box(box, width, height, 0.1)
    outside[top:bottom, left:right] = False
    assert not outside.any()
    x, y = (int(value) for value in face.points[2])
    assert mask[y, x]
    assert np.array_equal(mask, largest_component(mask))  # one piece
    with pytest.raises(ValueError, match="no pixel inside"):
        net.segment_box(image, (width + 10, 0, width + 20, 10))
    with pytest.raises(ValueError, match="multiple of 32"):
        U2NetP.from_assets(side=200)


def test_image_vectors_are_torchvisions_and_rank_views_of_one_thing_first() -> None:
    net = MobileNetV2.from_assets()
    cat, quokka = photo("cat")[:, 100:400], photo("quokka")
    theirs = torchvision.models.mobilenet_v2(weights=None)
    theirs.load_state_dict(torch.load(assets.asset("mobilenet-v2"), weights_only=True))
    theirs.eval()
    small = cv2.resize(cat, (224, 224), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    scaled = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    blob = torch.from_numpy(scaled.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.inference_mode():
        expected = theirs(blob).softmax(-1).numpy()
    assert np.allclose(net.probs([cat]), expected, atol=1e-4)
    assert int(expected.argmax()) == 285  # Egyptian cat
    views = [cat, np.ascontiguousarray(cat[:, ::-1]), cat[20:260, 30:], quokka]
    vectors = net.embed(views)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    cosines = vectors @ vectors[0]
    assert min(cosines[:3]) > cosines[3] + 0.1


def test_a_mask_takes_the_place_out_of_the_vector() -> None:
    net, image = MobileNetV2.from_assets(), photo("man-photo")
    mask = U2NetP.from_assets(side=224).saliency(image) > 0.5
    elsewhere = np.where(mask[:, :, None], image, np.roll(photo("coffee"), 50, 1)[:1, :1])
    bare = net.embed([image, elsewhere])
    masked = net.embed([image, elsewhere], [mask, mask])
    assert np.array_equal(masked[0], masked[1])
    assert float(bare[0] @ bare[1]) < 0.98
    with pytest.raises(ValueError, match="does not fit"):
        net.embed([image], [mask[1:]])


def test_a_film_character_is_nearer_to_itself_across_shots_than_to_another() -> None:
    # Seconds of the film, and the subject's box at 854x480: three of the rabbit, two of the
    # flying squirrel, all in different shots.
    boxes = [
        (169, (197, 44, 748, 480)),
        (205, (231, 83, 627, 480)),
        (268, (172, 27, 628, 480)),
        (403, (272, 85, 576, 364)),
        (484, (327, 148, 558, 411)),
    ]
    segmenter, crops, masks = U2NetP.from_assets(side=224), [], []
    with av.open(str(assets.asset("bbb-film"))) as container:
        stream = container.streams.video[0]
        for seconds, (x0, y0, x1, y1) in boxes:
            container.seek(int(seconds / stream.time_base), stream=stream)
            full = next(container.decode(stream)).to_ndarray(format="rgb24")
            image = np.asarray(cv2.resize(full, (854, 480), interpolation=cv2.INTER_AREA))
            masks.append(segmenter.segment_box(image, (x0, y0, x1, y1))[y0:y1, x0:x1])
            crops.append(image[y0:y1, x0:x1])
    cosines = (vectors := MobileNetV2.from_assets().embed(crops, masks)) @ vectors.T
    same = [cosines[0, 1], cosines[0, 2], cosines[1, 2], cosines[3, 4]]
    different = cosines[:3, 3:]
    assert min(same) > different.max()


def test_vectors_do_not_depend_on_the_batch() -> None:
    net = MobileNetV2.from_assets()
    images = [photo("cat"), photo("coffee"), photo("rocket")]
    together = net.embed(images)
    alone = np.concatenate([net.embed([image]) for image in images])
    assert np.abs(together - alone).max() < 1e-5
    assert net.embed([]).shape == (0, 1280)


def test_photographs_fit_for_all_score_as_safe() -> None:
    scorer = OpenNsfw.from_assets()
    assert all(0 <= scorer.score(photo(name)) < 0.2 for name in FACES)


def test_two_instances_give_the_same_bytes() -> None:
    image = photo("astronaut")
    for make in (
        lambda: MobileNetV2.from_assets().embed([image]).tobytes(),
        lambda: EfficientNetLite.from_assets().probabilities(image).tobytes(),
        lambda: U2NetP.from_assets(side=128).saliency(image).tobytes(),
        lambda: repr(SsdMobileNet.from_assets().detect(image, 0.1)).encode(),
        lambda: repr(YuNet.from_assets()(image)).encode(),
    ):
        assert make() == make()


def test_the_model_id_is_known_before_loading_and_follows_the_weights(tmp_path: Path) -> None:
    pinned = YuNet.from_assets()
    assert pinned.model_id == "yunet-r1-8f2383e4dd3c"
    other = tmp_path / "other.onnx"
    other.write_bytes(b"other weights")
    assert YuNet(other).model_id != pinned.model_id
    same = YuNet(assets.asset("yunet"))
    assert same.model_id == pinned.model_id


def test_absent_weights_name_the_command_that_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2V_ASSETS", str(tmp_path))
    with pytest.raises(assets.AssetMissing, match="s2v-data assets fetch sface"):
        SFace.from_assets()


def test_an_absent_library_names_the_command_that_installs_it() -> None:
    with pytest.raises(ImportError, match=r"s2v-datapipe\[curate\]"):
        require("no_such_library_anywhere")


def test_float_images_are_refused_with_their_shape() -> None:
    with pytest.raises(ValueError, match=r"float32 \(8, 8, 3\)"):
        YuNet.from_assets()(np.zeros((8, 8, 3), np.float32))  # type: ignore[arg-type]  # on purpose
