"""Whose face is whose, how many people, where they look: tables FACES and PEOPLE."""

from __future__ import annotations

import io
import itertools
import math
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from s2v.datapipe.backends.embedded.small import YuNetSFace
from s2v.datapipe.base import ids, records
from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media.images import encode_jpeg, load_image
from s2v.datapipe.base.media.phash import hamming
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure import people
from s2v.datapipe.measure.faces import FaceStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.pose import MEAN_HEAD, aligned_face, head_pose, sharpness
from s2v.datapipe.roles import Face, Image

Box = tuple[float, float, float, float]


def face(*box: float, score: float = 0.9, vector: tuple[float, ...] = (1.0, 0.0)) -> Face:
    x0, y0, x1, y1 = box
    points = np.array([[x0, y0], [x1, y0], [(x0 + x1) / 2, y1], [x0, y1], [x1, y1]], np.float32)
    return Face((x0, y0, x1, y1), points, score, np.array(vector, np.float32))


def person(name: str, *box: float, score: float = 0.8) -> Row:
    return {"detection_id": name, "box": list(box), "score": score}


def names(faces: list[Face], boxes: list[Row]) -> list[str | None]:
    return [o.detection_id if o else None for o in people.owners(faces, boxes)]


def test_the_assignment_is_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        n, m = rng.integers(1, 5, 2)
        worth = rng.integers(0, 6, (n, m)) * rng.integers(0, 2, (n, m))
        chosen = people.best_assignment(worth)
        taken = [at for at in chosen if at is not None]
        assert len(taken) == len(set(taken))
        assert all(at is None or worth[row, at] > 0 for row, at in enumerate(chosen))
        total = sum(int(worth[row, at]) for row, at in enumerate(chosen) if at is not None)
        padded = np.concatenate([worth, np.zeros((n, n), int)], axis=1)
        best = max(
            sum(int(padded[row, at]) for row, at in enumerate(order))
            for order in itertools.permutations(range(n + m), int(n))
        )
        assert total == best


def test_a_large_box_in_front_does_not_take_the_face_of_the_person_behind() -> None:
    front = person("front", 0, 100, 300, 600)
    behind = person("behind", 120, 60, 260, 600)
    mine, theirs = face(40, 120, 100, 190), face(160, 110, 210, 170)
    # The small face lies wholly in both boxes and a greedy choice may give it to the front one.
    assert names([mine, theirs], [front, behind]) == ["front", "behind"]
    assert names([theirs, mine], [behind, front]) == ["behind", "front"]


def test_of_boxes_that_hold_a_face_alike_the_one_whose_head_it_is_gets_it() -> None:
    standing = person("a", 100, 100, 300, 700)
    behind = person("b", 90, 350, 310, 700)
    assert names([face(170, 360, 230, 430)], [standing, behind]) == ["b"]


def test_two_phrases_on_one_person_are_one_person() -> None:
    sure = person("s1", 100, 100, 300, 500, score=0.9)
    unsure = person("s0", 102, 100, 300, 505, score=0.5)
    assert [row["detection_id"] for row in people.distinct([unsure, sure])] == ["s1"]
    assert names([face(150, 120, 200, 180)], [unsure, sure]) == ["s1"]


def test_a_face_half_outside_every_box_is_nobodys() -> None:
    box = person("a", 100, 100, 200, 400)
    inside, outside = people.owners([face(60, 120, 140, 200), face(40, 120, 140, 200)], [box])
    assert inside == people.Owner("a", 0.5)
    assert outside is None
    assert people.owners([], [box]) == []
    assert people.owners([face(0, 0, 9, 9)], []) == [None]


def test_people_are_boxes_and_the_sure_faces_nobody_owns() -> None:
    couple = person("a", 0, 0, 400, 400)
    faces = [face(50, 20, 120, 90), face(200, 60, 260, 120), face(300, 99, 320, 120, score=0.6)]
    owned = people.owners(faces, [couple])
    assert sum(o is not None for o in owned) == 1
    assert people.count(faces, owned, 1) == 2  # the box, and the second sure face in it


def test_a_clip_says_whether_its_people_stay() -> None:
    ann, bob = face(0, 0, 9, 9), face(0, 0, 9, 9, vector=(0.0, 1.0))
    row = people.clip_row("c", [1, 1, 2], [[ann], [ann], [bob, ann]])
    assert row == {
        "clip_id": "c", "frames": 3, "persons": 1, "count_stable": 0.6667, "same_person": 0.5,
    }  # fmt: skip
    assert people.clip_row("c", [2, 1], [[ann], []])["persons"] == 1
    assert people.clip_row("c", [1], [[ann]])["same_person"] is None
    assert people.clip_row("c", [0, 0], [[], []])["count_stable"] == 1


def turned(yaw: float, pitch: float, roll: float, distance: float | None = None) -> np.ndarray:
    """The mean head's points from the front, turned by degrees; ``distance`` in millimetres."""
    y, p, r = (math.radians(v) for v in (yaw, pitch, roll))
    # Looking right turns the nose to +x, looking up to -y; z goes into the picture.
    about_y = np.array([[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    head = (MEAN_HEAD - MEAN_HEAD.mean(axis=0)) @ (about_z @ about_y @ about_x).T
    if distance is not None:
        head[:, :2] *= (distance / (distance + head[:, 2]))[:, None]
    return np.asarray(head[:, :2] * 2 + 300, np.float32)


@pytest.mark.parametrize("yaw", [-40, 0, 25])
@pytest.mark.parametrize("pitch", [-20, 0, 15])
@pytest.mark.parametrize("roll", [-60, 0, 30])
def test_a_known_turn_of_the_mean_head_is_found(yaw: float, pitch: float, roll: float) -> None:
    pose = head_pose(turned(yaw, pitch, roll))
    assert pose is not None
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((yaw, pitch, roll), abs=0.2)
    near = head_pose(turned(yaw, pitch, roll, distance=700))
    assert near is not None
    assert (near.yaw, near.pitch, near.roll) == pytest.approx((yaw, pitch, roll), abs=6)


def test_no_pose_is_made_up_for_points_that_are_one() -> None:
    assert head_pose(np.full((5, 2), 7, np.float32)) is None


@pytest.fixture(scope="module")
def recogniser() -> YuNetSFace:
    model = YuNetSFace()
    model.load()
    return model


def photograph(name: str) -> Image:
    image = load_image(asset(name))
    scale = min(1.0, 800 / max(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def largest(recogniser: YuNetSFace, image: Image) -> Face:
    return recogniser.faces(image)[0]


# YuNet's landmarks are good for some five degrees of roll and some ten of yaw and pitch.
@pytest.mark.parametrize("name", ["astronaut", "obama-1", "man-photo"])
def test_frontal_portraits_look_at_the_viewer(recogniser: YuNetSFace, name: str) -> None:
    pose = head_pose(largest(recogniser, photograph(name)).points)
    assert pose is not None
    assert abs(pose.yaw) < 15
    assert abs(pose.pitch) < 15
    assert abs(pose.roll) < 8


@pytest.mark.parametrize("name", ["obama-2", "obama-3"])
def test_a_mirrored_photograph_mirrors_yaw_and_roll(recogniser: YuNetSFace, name: str) -> None:
    image = photograph(name)
    found = largest(recogniser, image)
    one = head_pose(found.points)
    again = head_pose(largest(recogniser, np.ascontiguousarray(image[:, ::-1])).points)
    flipped = (found.points * (-1, 1) + (image.shape[1], 0))[[1, 0, 2, 4, 3]]
    exact = head_pose(flipped.astype(np.float32))
    assert one is not None
    assert again is not None
    assert exact is not None
    assert abs(one.yaw) > 10, "a face turned aside"
    assert (exact.yaw, exact.pitch, exact.roll) == (-one.yaw, one.pitch, -one.roll)
    assert again.yaw == pytest.approx(-one.yaw, abs=10)


@pytest.mark.parametrize("angle", [-30, 25])
def test_a_turned_photograph_has_the_turn_as_roll(recogniser: YuNetSFace, angle: int) -> None:
    image = photograph("man-photo")
    found = largest(recogniser, image)
    before = head_pose(found.points)
    height, width = image.shape[:2]
    # OpenCV turns counter-clockwise, the column is clockwise.
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 0.8)
    exact = head_pose(cv2.transform(found.points[None], matrix)[0])
    again = head_pose(largest(recogniser, cv2.warpAffine(image, matrix, (width, height))).points)
    assert before is not None
    assert exact is not None
    assert again is not None
    assert exact.roll - before.roll == pytest.approx(angle, abs=0.2)
    assert (exact.yaw, exact.pitch) == pytest.approx((before.yaw, before.pitch), abs=0.2)
    assert again.roll - before.roll == pytest.approx(angle, abs=8)


def test_small_tilted_faces_are_recognised_by_a_second_look(recogniser: YuNetSFace) -> None:
    """Without it YuNet calls the eyes level and SFace sees a stranger."""
    seen = []
    for name in ("obama-2", "obama-3", "man-photo"):
        image = photograph(name)
        found = largest(recogniser, image)
        scale = 60 / (found.box[2] - found.box[0])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = small.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 25, 1.0)
        tilted = cv2.warpAffine(small, matrix, (width, height))
        twice = largest(recogniser, tilted)
        (once, *_) = recogniser._finder(tilted)
        (plain,) = recogniser._recogniser.embed(tilted, [once])
        seen.append((float(found.embedding @ plain), float(found.embedding @ twice.embedding)))
    once_only, with_it = np.array(seen).T
    assert (with_it > 0.7).all()
    assert (with_it > once_only + 0.1).all()


def test_a_blurred_or_enlarged_face_is_less_sharp(recogniser: YuNetSFace) -> None:
    image = photograph("obama-1")
    found = largest(recogniser, image)

    def sharp(picture: Image, points: np.ndarray) -> float:
        return sharpness(aligned_face(picture, points.astype(np.float32)))

    whole = sharp(image, found.points)
    softer = [sharp(cv2.GaussianBlur(image, (0, 0), s), found.points) for s in (2, 4, 8)]
    assert [whole, *softer] == sorted([whole, *softer], reverse=True)
    assert softer[1] < whole / 4
    tiny = cv2.resize(image, None, fx=0.12, fy=0.12, interpolation=cv2.INTER_AREA)
    assert sharp(tiny, found.points * 0.12) < whole / 4
    # Twice the pixels of the same picture are not sharper: no aliasing is taken for detail.
    double = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    assert sharp(double, found.points * 2) == pytest.approx(whole, rel=0.25)


def make_unit(folder: Path, clips: dict[str, list[Image]], boxes: dict[str, Box]) -> Unit:
    """Clips of stored frames; ``boxes``: a person grounded on every frame of a clip."""
    tables: dict[str, list[Row]] = {"frames": [], "phrases": [], "detections": []}
    (folder / "frames").mkdir(parents=True)
    with tarfile.open(folder / "frames" / "all.tar", "w") as tar:
        for clip, images in clips.items():
            for n, image in enumerate(images):
                jpeg = encode_jpeg(image, 95)
                info = tarfile.TarInfo(f"{clip}{n}.jpg")
                info.size = len(jpeg)
                frame: Row = {
                    "frame_id": ids.frame_id(clip, n * 1_000_000), "clip_id": clip,
                    "position": n / 10, "width": image.shape[1], "height": image.shape[0],
                    "tar": "frames/all.tar", "offset": tar.offset + 512, "size": len(jpeg),
                }  # fmt: skip
                tar.addfile(info, io.BytesIO(jpeg))
                tables["frames"].append(frame)
                if clip in boxes:
                    tables["detections"].append(
                        {"detection_id": f"{frame['frame_id']}-0", "subject_id": f"{clip}-s0",
                         "clip_id": clip, "frame_id": frame["frame_id"], "score": 0.9,
                         "box": list(boxes[clip]), "reason": None}
                    )  # fmt: skip
            tables["phrases"].append(
                {"subject_id": f"{clip}-s0", "clip_id": clip, "bank": "person", "reason": None}
            )
    return Unit("u", "clip_id", sorted(clips), tables, folder)


@pytest.fixture(scope="module")
def measured(
    recogniser: YuNetSFace, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Row]]:
    obama = photograph("obama-1")
    height, width = obama.shape[:2]
    unit = make_unit(
        tmp_path_factory.mktemp("run"),
        {
            "group": [photograph("group-photo")],
            "man": [obama, np.ascontiguousarray(obama[5:, 3:]), photograph("obama-2")],
            "rocket": [photograph("rocket")],
            "swap": [obama, photograph("biden")],
        },
        {"man": (0.0, 0.0, float(width - 3), float(height - 5))},
    )
    stage = FaceStage(recogniser, GateSettings())
    found = stage.run(unit)
    assert unit.quarantine == []
    return found


def test_rows_are_of_the_contract_and_come_without_a_grounded_person_too(
    measured: dict[str, list[Row]],
) -> None:
    for name in ("faces", "people"):
        assert records.table(name, measured[name]).num_rows == len(measured[name])
    group = [row for row in measured["faces"] if row["clip_id"] == "group"]
    assert len(group) == 5
    assert {row["detection_id"] for row in group} == {None}
    assert not [row for row in measured["faces"] if row["clip_id"] == "rocket"]
    wanted = ("yaw", "pitch", "roll", "sharpness", "phash", "score", "embedding")
    assert all(row[name] is not None for row in group for name in wanted)


def test_a_persons_face_names_its_box(measured: dict[str, list[Row]]) -> None:
    rows = [row for row in measured["faces"] if row["clip_id"] == "man"]
    assert [row["detection_id"] for row in rows] == [f"{row['frame_id']}-0" for row in rows]
    assert all(row["containment"] >= 0.9 for row in rows)


def test_who_is_there_is_counted_per_clip(measured: dict[str, list[Row]]) -> None:
    by: dict[str, dict[str, Any]] = {row["clip_id"]: row for row in measured["people"]}
    assert by["group"]["persons"] == 5
    assert by["rocket"]["persons"] == 0
    assert (by["man"]["frames"], by["man"]["persons"]) == (3, 1)
    assert by["man"]["count_stable"] == 1
    assert by["man"]["same_person"] == 1
    assert by["swap"]["same_person"] == 0


def test_near_copies_of_a_face_have_near_hashes_and_other_photographs_do_not(
    measured: dict[str, list[Row]],
) -> None:
    first, shifted, other = (r["phash"] for r in measured["faces"] if r["clip_id"] == "man")
    assert hamming(first, shifted) <= 10
    assert hamming(first, other) > 14
