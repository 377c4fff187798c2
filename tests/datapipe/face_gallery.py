"""The people of the sample media, measured and selected by the product's own stages.

Each face is a subject of its own: the real YuNet and SFace find and describe it, the real segmenter
and embedder its body, and :func:`s2v.datapipe.pair.select.select` decides with its default rules.
Only the rules on the size of a box are opened and the number of candidates raised, so that every
face of a group is asked about and no pair is left out because eight better ones were found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from synthetic_tables import Row, World

from s2v.datapipe.backends.embedded.small import AppearanceEmbedder, BoxSegmenter, YuNetSFace
from s2v.datapipe.base import ids
from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media import boxes, masks
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.media.phash import perceptual_hashes
from s2v.datapipe.base.media.stills import animate_still
from s2v.datapipe.engine.stage import Unit
from s2v.datapipe.measure.embed import EmbedStage
from s2v.datapipe.measure.faces import FaceStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.technical import saturation, sharpness
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.settings import (
    DetectionRules,
    MaskRules,
    RetrievalSettings,
    SelectSettings,
)

Outcome = Literal["valid", "near copy", "different", "not known"]
SIDE = 1280  # pixels of the longer side, as the frames stage stores them


@dataclass(frozen=True)
class Medium:
    """A photograph or clip.

    Attributes:
        name: of the asset, or of what is made of it.
        people: who its faces are, from left to right. ``?`` before a name: not surely another
            person than the others with a ``?``.
        recording: what its pixels come from; one recording cannot be a valid pair with itself.
        span: of a clip, in seconds.
        animated: a camera move over this photograph, made here.
    """

    name: str
    people: tuple[str, ...]
    recording: str
    span: tuple[float, float] | None = None
    animated: str | None = None


def _photo(name: str, *people: str, recording: str | None = None) -> Medium:
    return Medium(name, people, recording or name)


def _moving(name: str, person: str) -> Medium:
    return Medium(f"{name}-animated", (person,), name, (0.1, 2.3), name)


OBAMA = tuple(_photo(f"obama-{n}", "obama") for n in (1, 2, 3))
PORTRAITS = (
    *OBAMA,
    _photo("biden", "biden"),
    _photo("man-photo", "man"),
    _photo("astronaut", "astronaut"),
)
MAN_CLIP = Medium("man-clip", ("man",), "man indoors", (0.1, 2.3))
CLIPS = (
    MAN_CLIP,
    Medium("man-leaves", ("man",), "man indoors", (0.1, 2.3)),
    Medium("man-enters", ("man",), "man indoors", (4.1, 6.2)),
)
GROUP = _photo("group-photo", *(f"group {n}" for n in range(5)))
#: Optional assets. One woman is surely in two of the three photographs; whether others are, nobody
#: can say, so pairs among the others are counted neither as right nor as wrong.
WOMEN = (
    _photo("women-1", "?woman a", "?woman b", "woman"),
    _photo("women-2", "?woman c", "?woman d"),  # the third looks down: no face is found
    _photo("women-3", "?woman e", "woman", "?woman f"),
)
CROPS = tuple(_photo(f"obama-crop-{n}", "obama", recording="obama-1") for n in (1, 2))
ANIMATED = (*(_moving(f"obama-{n}", "obama") for n in (1, 2, 3)), _moving("biden", "biden"))

#: Pairs that the media were chosen for, and what must become of each.
LISTED: tuple[tuple[str, str, Outcome], ...] = (
    ("man-photo", "man-clip", "valid"),
    ("obama-1", "obama-2", "valid"),
    ("obama-1", "obama-3", "valid"),
    ("obama-2", "obama-3", "valid"),
    ("women-1", "women-3", "valid"),  # the woman who is in both
    ("obama-1-animated", "obama-2-animated", "valid"),
    ("obama-1-animated", "obama-3-animated", "valid"),
    ("obama-2-animated", "obama-3-animated", "valid"),
    ("man-clip", "man-leaves", "near copy"),
    ("man-clip", "man-enters", "near copy"),
    ("obama-1", "obama-crop-1", "near copy"),
    ("obama-1", "obama-crop-2", "near copy"),
    ("obama-1", "obama-1-animated", "near copy"),
    ("obama-2", "obama-2-animated", "near copy"),
    ("obama-3", "obama-3-animated", "near copy"),
    ("biden", "biden-animated", "near copy"),
)


def settings() -> SelectSettings:
    """The defaults, but for boxes of any size and every pair a candidate."""
    return SelectSettings(
        detection=DetectionRules(min_area_share=0, max_area_share=1, min_side=1),
        mask=MaskRules(min_area_share=0, min_box_fill=0, max_box_fill=1.01),
        retrieval=RetrievalSettings(candidates=400, overfetch=400, floor_margin=None),
    )


@dataclass
class Gallery:
    """The media, measured and selected."""

    media: dict[str, Medium]
    world: World
    selection: Selection
    person: dict[str, str]  # subject id -> who it is
    folder: Path

    def medium(self, subject: str) -> Medium:
        """What a subject is seen in."""
        return self.media[next(n for n in sorted(self.media, key=len, reverse=True)
                               if subject.startswith(f"{n}-0"))]  # fmt: skip

    def expected(self, a: str, b: str) -> Outcome:
        """What must become of a pair of subjects."""
        one, other = self.person[a], self.person[b]
        if one == other:
            same = self.medium(a).recording == self.medium(b).recording
            return "near copy" if same else "valid"
        return "not known" if one[0] == other[0] == "?" else "different"

    def pairs(self) -> Iterator[Row]:
        """Rows of table PAIRS, each two subjects once, with ``expected``."""
        seen: set[frozenset[str]] = set()
        for row in self.selection.pairs.to_pylist():
            a, b = row["target_subject_id"], row["reference_subject_id"]
            if frozenset((a, b)) not in seen:
                seen.add(frozenset((a, b)))
                yield {**row, "expected": self.expected(a, b)}

    def between(self, a: str, b: str) -> list[Row]:
        """Pairs of one person between two media."""
        return [
            row
            for row in self.pairs()
            if {self.medium(row[f"{side}_subject_id"]).name for side in ("target", "reference")}
            == {a, b}
            and row["expected"] in ("valid", "near copy")
        ]


def build(folder: Path, media: Iterable[Medium]) -> Gallery:
    """Measure the media and select among them.

    Raises:
        AssetMissing: a medium was not fetched.
        ValueError: not as many faces were found as people are named.
    """
    cv2.setNumThreads(1)
    world, chosen = World(), {medium.name: medium for medium in media}
    finder, segmenter = YuNetSFace(), BoxSegmenter()
    person = {}
    for medium in chosen.values():
        for subject, who in _add(world, medium, folder, finder, segmenter):
            person[subject] = who
    world.store_frames(folder)
    world.finish()
    for stage in (
        FaceStage(finder, GateSettings()),
        EmbedStage(AppearanceEmbedder(), GateSettings()),
    ):
        stage.setup()
        unit = Unit("u", "clip_id", _clips(world), world.rows, folder)
        made = stage.run(unit)
        if unit.quarantine:
            raise ValueError(f"not measured: {unit.quarantine}")
        world.rows |= made
    selection = select(world.tables(), settings())
    return Gallery(chosen, world, selection, person, folder)


def _clips(world: World) -> list[str]:
    return sorted(row["clip_id"] for row in world.rows["clips"])


def _add(
    world: World, medium: Medium, folder: Path, finder: YuNetSFace, segmenter: BoxSegmenter
) -> Iterator[tuple[str, str]]:
    """A medium's frames, and a subject with box and mask for each of its people."""
    start, end = medium.span or (0, 0)
    kind = "video" if medium.span else "image"
    world.source(medium.name, kind=kind, seconds=10)
    clip = world.clip(medium.name, start, end)
    row = next(row for row in world.rows["clips"] if row["clip_id"] == clip)
    frames = [frame for frame in world.rows["frames"] if frame["clip_id"] == clip]
    # The world draws its subjects on made-up pictures; the real ones come after.
    subjects = [
        world.subject(clip, who.strip("?"), "person", noun="person") for who in medium.people
    ]
    pictures = _pictures(medium, folder, [frame["pts_us"] for frame in frames])
    for frame, rgb in zip(frames, pictures, strict=True):
        _fill(world, frame, rgb)
        row |= {"width": rgb.shape[1], "height": rgb.shape[0]}
    for name in ("detections", "masks", "embeddings"):
        world.rows[name] = [one for one in world.rows[name] if one["clip_id"] != clip]
    found = 0
    for frame, rgb in zip(frames, pictures, strict=True):
        faces = sorted(finder.faces(rgb), key=lambda face: face.box[0])
        if len(faces) not in (0, len(subjects)):
            raise ValueError(f"{medium.name}: {len(faces)} faces, {len(subjects)} people named")
        found += len(faces)
        for n, (subject, face) in enumerate(zip(subjects, faces, strict=False)):
            _body(world, frame, rgb, subject, n, _bust(face.box, rgb), segmenter)
    if not found:
        raise ValueError(f"{medium.name}: no face was found")
    yield from zip(subjects, medium.people, strict=True)


def _pictures(medium: Medium, folder: Path, times: list[int]) -> list[np.ndarray]:
    if medium.animated:
        path = folder / f"{medium.name}.mp4"
        folder.mkdir(parents=True, exist_ok=True)
        animate_still(asset(medium.animated), path, seconds=2.5, fps=12)
        return [rgb for _, rgb in frames_at(path, times)]
    if medium.span:
        return [rgb for _, rgb in frames_at(asset(medium.name), times)]
    rgb = load_image(asset(medium.name))
    scale = SIDE / max(rgb.shape[:2])
    if scale < 1:
        size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
    return [rgb]


def _fill(world: World, frame: Row, rgb: np.ndarray) -> None:
    """A row of table FRAMES as the stage measures it."""
    phash, mirrored = perceptual_hashes(rgb)
    frame |= {"width": rgb.shape[1], "height": rgb.shape[0], "phash": phash}
    frame |= {"phash_mirror": mirrored, "blur": sharpness(rgb), "saturation": saturation(rgb)}
    world.pictures[frame["frame_id"]] = rgb


def _bust(face: tuple[float, ...], rgb: np.ndarray) -> tuple[float, float, float, float]:
    """Head and chest: what a detector boxes of a person in a portrait."""
    x0, y0, x1, y1 = face
    wide, high = x1 - x0, y1 - y0
    grown = (x0 - 0.7 * wide, y0 - 0.5 * high, x1 + 0.7 * wide, y1 + 1.5 * high)
    return boxes.clip(grown, rgb.shape[1], rgb.shape[0])


def _body(
    world: World,
    frame: Row,
    rgb: np.ndarray,
    subject: str,
    n: int,
    box: tuple[float, float, float, float],
    segmenter: BoxSegmenter,
) -> None:
    (segment,) = segmenter.segment(rgb, [box], ["person"])
    detection = ids.detection_id(frame["clip_id"], frame["pts_us"], n)
    share = boxes.area_share(box, rgb.shape[1], rgb.shape[0])
    world.rows["detections"].append(
        {
            "detection_id": detection,
            "subject_id": subject,
            "clip_id": frame["clip_id"],
            "frame_id": frame["frame_id"],
            "pts_us": frame["pts_us"],
            "box": [round(value, 1) for value in box],
            "score": 0.9,
            "area_share": round(share, 6),
            "reason": None,
        }
    )
    world.rows["masks"].append(
        {
            "detection_id": detection,
            "clip_id": frame["clip_id"],
            "rle": masks.encode(segment.mask)["counts"],
            "rle_height": rgb.shape[0],
            "rle_width": rgb.shape[1],
            "area_share": round(float(segment.mask.mean()), 6),
            "box_fill": min(1.0, round(float(segment.mask.sum()) / boxes.area(box), 6)),
            "touches_border": False,
            "reason": None,
        }
    )
