"""Sanity figures of the face measures on the bundled photographs, as tables for docs/faces.md.

    python tests/benchmarks/bench_faces.py

Six portraits of four adults that come with the assets, and the group photograph (five women). It
is a check that the numbers mean what they say, no benchmark of the nets: far too few faces, and all
of them easy. Takes half a minute on one thread.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator

import cv2
import numpy as np

from s2v.datapipe.backends.embedded.small import YuNetSFace
from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media.boxes import crop
from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.media.phash import hamming, perceptual_hash
from s2v.datapipe.measure.faces import HASH_MARGIN
from s2v.datapipe.measure.pose import aligned_face, head_pose, sharpness
from s2v.datapipe.roles import Face, Image

#: Photograph -> who it shows.
PORTRAITS = {
    "astronaut": "astronaut",
    "biden": "biden",
    "man-photo": "man",
    "obama-1": "obama",
    "obama-2": "obama",
    "obama-3": "obama",
}
SIZES = (30, 64, 96, 140)  # pixels of the face
TILTS = (-25, -12, 0, 12, 25)  # degrees


def photograph(name: str, side: int = 900) -> Image:
    """A bundled photograph, its longer side at most ``side`` pixels."""
    return scaled(load_image(asset(name)), side)


def scaled(image: Image, side: float) -> Image:
    """The image with a longer side of at most ``side`` pixels."""
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def tilted(image: Image, degrees: float) -> Image:
    """Turned clockwise about its middle, black where it was not."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height)), np.uint8)


def re_encoded(image: Image) -> Image:
    """JPEG at quality 50."""
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


def copies(image: Image) -> Iterator[tuple[str, Image]]:
    """What makes near copies of a photograph."""
    yield "JPEG 50", re_encoded(image)
    yield "half size", scaled(image, max(image.shape[:2]) / 2)
    yield "shifted by 2 %", np.ascontiguousarray(image[image.shape[0] // 50 :])
    yield "brighter", np.clip(image.astype(int) + 25, 0, 255).astype(np.uint8)
    yield "blurred", np.asarray(cv2.GaussianBlur(image, (0, 0), 2.5), np.uint8)


def pose_table(model: YuNetSFace) -> None:
    """Yaw, pitch and roll of each portrait, of its mirror image and turned by 20 degrees."""
    print("\n| photograph | yaw | pitch | roll | yaw mirrored | roll when turned by 20 |")
    print("|---|---|---|---|---|---|")
    for name in PORTRAITS:
        image = photograph(name)
        views = (image, np.ascontiguousarray(image[:, ::-1]), tilted(image, 20))
        one, mirrored, turned = (head_pose(model.faces(view)[0].points) for view in views)
        if one is None or mirrored is None or turned is None:
            raise SystemExit(f"{name}: no pose")
        print(
            f"| {name} | {one.yaw:+.0f} | {one.pitch:+.0f} | {one.roll:+.0f} "
            f"| {mirrored.yaw:+.0f} | {turned.roll - one.roll:+.0f} |"
        )


def hash_table(model: YuNetSFace) -> None:
    """Bits between hashes of face crops: of near copies, of other photographs, of other people."""

    def hashes(image: Image) -> list[str]:
        return [perceptual_hash(crop(image, f.box, HASH_MARGIN)[0]) for f in model.faces(image)]

    bits: dict[str, list[int]] = defaultdict(list)
    first = {name: hashes(photograph(name))[0] for name in PORTRAITS}
    for name in PORTRAITS:
        for what, copy in copies(photograph(name)):
            bits[f"near copy: {what}"].append(hamming(first[name], hashes(copy)[0]))
    group = hashes(photograph("group-photo", 1600))
    people = [(PORTRAITS[n], value) for n, value in first.items()]
    people += [(f"group {n}", value) for n, value in enumerate(group)]
    for (who, a), (other, b) in itertools.combinations(people, 2):
        bits["same person, other photograph" if who == other else "other person"].append(
            hamming(a, b)
        )
    print("\n| pair of face crops | pairs | bits: least | median | most | up to 10 |")
    print("|---|---|---|---|---|---|")
    for what, found in bits.items():
        print(
            f"| {what} | {len(found)} | {min(found)} | {np.median(found):.0f} | {max(found)} "
            f"| {sum(value <= 10 for value in found)} |"
        )


def sharpness_table(model: YuNetSFace) -> None:
    """Sharpness of each portrait, and when blurred, small or badly encoded."""
    print("\n| photograph | as it is | blurred, sigma 2 % of the face | 4 % | 30 pixels wide |")
    print("|---|---|---|---|---|")
    for name in PORTRAITS:
        image = photograph(name)
        face = model.faces(image)[0]
        side = face.box[2] - face.box[0]

        def sharp(picture: Image, points: np.ndarray) -> float:
            return sharpness(aligned_face(picture, points.astype(np.float32)))

        blurred = [
            sharp(np.asarray(cv2.GaussianBlur(image, (0, 0), side * s), np.uint8), face.points)
            for s in (0.02, 0.04)
        ]
        factor = 30 / side
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        tiny = sharp(np.asarray(small, np.uint8), face.points * factor)
        cells = [sharp(image, face.points), *blurred, tiny]
        print(f"| {name} | {' | '.join(f'{value:.0f}' for value in cells)} |")


def second_look_table(model: YuNetSFace) -> None:
    """Cosine of a small, tilted face to the large upright one, and the error of its eye line."""
    found: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for name in PORTRAITS:
        image = photograph(name, 1600)
        face = model.faces(image)[0]
        line = eye_line(face.points)
        for size in SIZES:
            factor = size / (face.box[2] - face.box[0])
            small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            for degrees in TILTS:
                view = tilted(np.asarray(small, np.uint8), degrees)
                seen = model._finder(view)
                if not seen:
                    continue
                twice = model._second_look(view, seen[0])
                vectors = model._recogniser.embed(view, [seen[0], twice])
                errors = [abs(eye_line(f.points) - line - degrees) for f in (seen[0], twice)]
                found[size].append((*(float(v @ face.embedding) for v in vectors), *errors))
    print("\n| face | cosine, one look | two | lowest tenth, one | two | eye line off | two |")
    print("|---|---|---|---|---|---|---|")
    for size, rows in sorted(found.items()):
        once, twice, off, off_twice = np.array(rows).T
        low = [float(np.percentile(values, 10)) for values in (once, twice)]
        print(
            f"| {size} px | {once.mean():.2f} | {twice.mean():.2f} | {low[0]:.2f} | {low[1]:.2f} "
            f"| {off.mean():.0f}° | {off_twice.mean():.0f}° |"
        )


def eye_line(points: np.ndarray) -> float:
    """Degrees, clockwise."""
    across, down = points[1] - points[0]
    return float(np.degrees(np.arctan2(down, across)))


def likeness_table(model: YuNetSFace) -> None:
    """Cosines of faces of the same and of different people."""
    faces: list[tuple[str, Face]] = [
        (who, model.faces(photograph(name, 1600))[0]) for name, who in PORTRAITS.items()
    ]
    group = model.faces(photograph("group-photo", 1600))
    faces += [(f"group {n}", face) for n, face in enumerate(group)]
    pairs: dict[str, list[float]] = defaultdict(list)
    for (who, a), (other, b) in itertools.combinations(faces, 2):
        pairs["same" if who == other else "different"].append(float(a.embedding @ b.embedding))
    print("\n| people | pairs | cosine: least | mean | most |")
    print("|---|---|---|---|---|")
    for what, found in sorted(pairs.items()):
        print(
            f"| {what} | {len(found)} | {min(found):.2f} | {np.mean(found):.2f} "
            f"| {max(found):.2f} |"
        )


def cost(model: YuNetSFace) -> None:
    """CPU seconds of one picture."""
    print("\n| picture | faces | CPU ms |")
    print("|---|---|---|")
    for name, side in (("rocket", 1280), ("obama-1", 1280), ("group-photo", 1280)):
        image = photograph(name, side)
        faces = model.faces(image)
        before = time.process_time()
        for _ in range(5):
            model.faces(image)
        spent = (time.process_time() - before) / 5
        size = f"{image.shape[1]} x {image.shape[0]}"
        print(f"| {name}, {size} | {len(faces)} | {1000 * spent:.0f} |")


def main() -> None:
    """Print all tables."""
    cv2.setNumThreads(1)
    model = YuNetSFace()
    model.load()
    print(model.model_id)
    for table in (
        pose_table, sharpness_table, hash_table, likeness_table, second_look_table, cost,
    ):  # fmt: skip
        table(model)


if __name__ == "__main__":
    main()
