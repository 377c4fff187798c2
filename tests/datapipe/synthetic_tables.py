"""A small world with planted truth: who is who, which shot is a copy of which.

Vectors are made, not measured: a subject's embedding lies at a chosen cosine from its
identity's, so tests know what must be paired. Pictures and masks are drawn for real.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from synthetic_pictures import HEIGHT, WIDTH, draw, scene, silhouette, store
from synthetic_vectors import around, hash_of, rng

from s2v.datapipe.base import ids, records
from s2v.datapipe.base.media import masks

__all__ = ["EMBEDDER", "FACE_EMBEDDER", "HEIGHT", "WIDTH", "Row", "World", "film_world"]

Row = dict[str, Any]
POSITIONS = (0.05, 0.5, 0.95)
EMBEDDER, FACE_EMBEDDER = "test-embedder", "test-faces"


@dataclass
class World:
    """Collects rows; :meth:`tables` gives them as the pipeline would."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {n: [] for n in records.TABLES})
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    _phrases: dict[str, list[str]] = field(default_factory=dict)

    def source(
        self, video_id: str, long_video_id: str | None = None, kind: str = "video", seconds: int = 0
    ) -> None:
        self.rows["sources"].append(
            {
                "video_id": video_id,
                "long_video_id": long_video_id or video_id,
                "kind": kind,
                "path": f"{video_id}.mp4",
                "url": None,
                "licence": "CC-BY-4.0",
                "consent": "not applicable",
                "credit": f"the makers of {video_id}",
                "origin": "synthetic",
                "sha256": hashlib.sha256(video_id.encode()).hexdigest(),
                "bytes": 1000,
            }
        )
        self.rows["probe"].append(
            {
                "video_id": video_id,
                "width": WIDTH,
                "height": HEIGHT,
                "fps": 24.0 if kind == "video" else None,
                "duration_us": seconds * 1_000_000,
                "declared_frames": seconds * 24 if kind == "video" else 1,
                "codec": "h264",
                "pix_fmt": "yuv420p",
                "rotation": 0,
                "has_audio": False,
                "bits_per_pixel": 0.1 if kind == "video" else None,
                "reason": None,
            }
        )

    def clip(
        self, video_id: str, start: float, end: float, shot: str | None = None, flip: int = 0
    ) -> str:
        """A clip; clips of the same ``shot`` show the same pictures, up to ``flip`` bits."""
        source = next(s for s in self.rows["sources"] if s["video_id"] == video_id)
        start_us, end_us = int(start * 1e6), int(end * 1e6)
        clip = ids.clip_id(video_id, start_us, end_us)
        shot = shot or clip
        image = source["kind"] == "image"
        self.rows["clips"].append(
            {
                "clip_id": clip,
                "video_id": video_id,
                "long_video_id": source["long_video_id"],
                "kind": source["kind"],
                "start_us": start_us,
                "end_us": end_us,
                "frames": 1 if image else int((end - start) * 24),
                "fps": None if image else 24.0,
                "width": WIDTH,
                "height": HEIGHT,
                "motion": None if image else 0.2,
                "luma": 0.5,
                "luma_std": 0.2,
                "freeze": None if image else 0.0,
                "black": None if image else 0.0,
            }
        )
        for position in (0.5,) if image else POSITIONS:
            pts = int(start_us + position * (end_us - start_us))
            frame = ids.frame_id(clip, pts)
            self.pictures[frame] = scene(shot, position)
            self.rows["frames"].append(
                {
                    "frame_id": frame,
                    "clip_id": clip,
                    "position": position,
                    "pts_us": pts,
                    "width": WIDTH,
                    "height": HEIGHT,
                    "tar": "frames/all.tar",
                    "offset": 0,
                    "size": 0,
                    "phash": hash_of(shot, position, flip=flip),
                    "blur": 120.0,
                    "saturation": 0.4,
                }
            )
        self.rows["overlays"].append(
            {
                "clip_id": clip,
                "text_boxes": [],
                "text_share": 0.0,
                "subtitle_share": 0.0,
                "watermark_share": None if image else 0.0,
                "crop": None,
                "crop_kept": 1.0,
            }
        )
        self.rows["quality"].append(
            {
                "clip_id": clip,
                "text_share": 0.0,
                "subtitle_share": 0.0,
                "watermark_share": None if image else 0.0,
                "blur": 120.0,
                "blockiness": 0.1,
                "exposure_low": 0.0,
                "exposure_high": 0.0,
                "saturation": 0.4,
                "niqe": 9.0,
                "nsfw": 0.01,
                "aesthetic": None,
            }
        )
        self.rows["people"].append(
            {
                "clip_id": clip,
                "frames": 1 if image else len(POSITIONS),
                "persons": 1,
                "count_stable": 1.0,
                "same_person": None if image else 1.0,
            }
        )
        self._phrases[clip] = []
        return clip

    def subject(
        self,
        clip: str,
        identity: str,
        bank: str = "creature",
        *,
        noun: str | None = None,
        closeness: float = 0.9,
        face: float | None = None,
        background: str | None = None,
        crop: str | None = None,
        look: str | None = None,
    ) -> str:
        """A subject on every frame of ``clip``.

        Args:
            identity: who it is; its vectors lie around the base vector of this name.
            closeness: cosine to that base vector.
            face: cosine of its face to the identity's face, ``None`` without a face.
            background: name of the setting; equal names are equal backgrounds.
            crop: name of the crop's pixels; equal names are equal crops.
            look: name of the noise; equal names are equal vectors.
        """
        n = len(self._phrases[clip])
        subject = ids.subject_id(clip, n)
        phrase = f"the {identity} number {n}"
        self._phrases[clip].append(phrase)
        self.rows["phrases"].append(
            {
                "subject_id": subject,
                "clip_id": clip,
                "phrase": phrase,
                "start": 0,
                "end": 0,
                "noun": noun or identity,
                "bank": bank,
                "reason": None,
            }
        )
        x0 = 10 + 100 * (n % 3)
        box = [float(x0), 20.0, float(x0 + 90), 170.0]
        look = look or clip
        for frame in [f for f in self.rows["frames"] if f["clip_id"] == clip]:
            detection = ids.detection_id(clip, frame["pts_us"], n)
            draw(self.pictures[frame["frame_id"]], box, identity)
            self.rows["detections"].append(
                {
                    "detection_id": detection,
                    "subject_id": subject,
                    "clip_id": clip,
                    "frame_id": frame["frame_id"],
                    "pts_us": frame["pts_us"],
                    "box": box,
                    "score": round(0.8 + 0.1 * (frame["position"] == 0.5), 6),
                    "area_share": round(90 * 150 / (WIDTH * HEIGHT), 6),
                    "reason": None,
                }
            )
            mask = silhouette((x0 + 45, 95))
            self.rows["masks"].append(
                {
                    "detection_id": detection,
                    "clip_id": clip,
                    "rle": masks.encode(mask)["counts"],
                    "rle_height": HEIGHT,
                    "rle_width": WIDTH,
                    "area_share": round(float(mask.mean()), 6),
                    "box_fill": round(float(mask.sum()) / (90 * 150), 6),
                    "touches_border": False,
                    "reason": None,
                }
            )
            self.rows["embeddings"].append(
                {
                    "detection_id": detection,
                    "clip_id": clip,
                    "embedder": EMBEDDER,
                    "subject": around(identity, closeness, look),
                    "background": around(f"place {background or clip}", 0.99, look),
                    "phash": hash_of("crop", crop or detection),
                }
            )
            if bank == "thing":  # products need a name on them
                self.rows["marks"].append(
                    {
                        "detection_id": detection,
                        "clip_id": clip,
                        "reader": "synthetic",
                        "text_share": 0.1,
                        "text": "NORDWIND",
                        "text_score": 0.9,
                    }
                )
            if face is not None:
                self.rows["faces"].append(
                    {
                        "clip_id": clip,
                        "frame_id": frame["frame_id"],
                        "face": n,
                        "detection_id": detection,
                        "box": [x0 + 25.0, 30.0, x0 + 65.0, 80.0],
                        "points": [float(x) for x in range(10)],
                        "score": 0.9,
                        "embedder": FACE_EMBEDDER,
                        "embedding": around(f"face {identity}", face, look),
                        "containment": 1.0,
                        "yaw": 5.0,
                        "pitch": -3.0,
                        "roll": 1.0,
                        "sharpness": 150.0,
                        "phash": hash_of("face", crop or detection),
                    }
                )
        return subject

    def finish(self) -> None:
        """Write captions from the phrases, and spans over every source."""
        self.rows["captions"].clear()
        spans = {row["subject_id"]: row for row in self.rows["phrases"]}
        for clip, phrases in self._phrases.items():
            text = "A scene"
            for n, phrase in enumerate(phrases):
                text += " with " if n == 0 else " and "
                row = spans[ids.subject_id(clip, n)]
                row["start"], row["end"] = len(text), len(text) + len(phrase)
                text += phrase
            self.rows["captions"].append(
                {
                    "clip_id": clip,
                    "caption": text + ".",
                    "captioner": "test-captioner",
                    "prompt_sha256": "0" * 64,
                    "facts": "{}",
                }
            )
        self.rows["spans"].clear()
        for probe in self.rows["probe"]:
            self._cover(probe)

    def _cover(self, probe: Row) -> None:
        at = 0
        clips = [c for c in self.rows["clips"] if c["video_id"] == probe["video_id"]]
        for clip in sorted(clips, key=lambda c: c["start_us"]):
            if clip["kind"] == "image":
                return
            self._span(probe, at, clip["start_us"], None)
            self._span(probe, clip["start_us"], clip["end_us"], clip["clip_id"])
            at = clip["end_us"]
        self._span(probe, at, probe["duration_us"], None)

    def _span(self, probe: Row, start: int, end: int, clip: str | None) -> None:
        if start < end:
            self.rows["spans"].append(
                {
                    "video_id": probe["video_id"],
                    "start_us": start,
                    "end_us": end,
                    "clip_id": clip,
                    "reason": None if clip else "trim",
                }
            )

    def store_frames(self, run: Path) -> None:
        """Write the pictures into the run; rows of FRAMES then say where they lie."""
        store(run, self.rows["frames"], self.pictures)

    def tables(self, shuffle: int | None = None) -> dict[str, pa.Table]:
        """The measure tables; ``shuffle`` seeds another order of the rows."""
        self.finish()
        made = {}
        for name in sorted(records.TABLES):
            if name in ("subjects", "pairs", "samples"):
                continue
            rows = list(self.rows[name])
            if shuffle is not None:
                rng("shuffle", name, shuffle).shuffle(rows)
            made[name] = records.table(name, rows)
        return made


def film_world() -> World:
    """A film, its trailer, a man in two places, strangers, cups.

    Planted truth:

    - ``film``: shots of a rabbit and a squirrel, 20 s apart; ``trailer`` re-uses the shot at
      40 s whole (a duplicate) and one frame of the shot at 80 s (a near copy).
    - ``man``: an indoor video and a photograph, ``Jin`` in both, at face cosine ~0.7.
    - ``street``: two strangers with faces; ``crowd``: a photograph of two others.
    - ``shop``, ``home``: the same cup, and another one.
    """
    world = World()
    world.source("film", "bunny", seconds=200)
    for n in range(9):
        clip = world.clip("film", 20 * n + 1, 20 * n + 7)
        world.subject(clip, "rabbit", look=f"rabbit {n}")
        if n % 2 == 0:
            world.subject(clip, "squirrel", look=f"squirrel {n}")
    world.source("trailer", "bunny", seconds=30)
    shot = ids.clip_id("film", 41_000_000, 47_000_000)
    copy = world.clip("trailer", 2, 8, shot=shot, flip=3)
    world.subject(copy, "rabbit", look="rabbit 2", crop="copy")
    world.subject(copy, "squirrel", look="squirrel 2")
    other = world.clip("trailer", 10, 16)
    world.subject(other, "rabbit", look="trailer")
    world.rows["frames"][-1]["phash"] = hash_of(
        ids.clip_id("film", 81_000_000, 87_000_000), 0.5, flip=4
    )

    world.source("indoors", seconds=40)
    first, second = world.clip("indoors", 1, 6), world.clip("indoors", 20, 26)
    world.subject(first, "jin", "person", face=0.84, closeness=0.7)
    world.subject(second, "jin", "person", face=0.84, closeness=0.7)
    world.source("outdoors", kind="image")
    world.subject(world.clip("outdoors", 0, 0), "jin", "person", face=0.84, closeness=0.7)

    world.source("street", seconds=40)
    for n, name in enumerate(("ann", "bob")):
        clip = world.clip("street", 20 * n + 1, 20 * n + 6)
        world.subject(clip, name, "person", face=0.84, closeness=0.7, look="same coat")
    world.source("crowd", kind="image")
    crowd = world.clip("crowd", 0, 0)
    for name in ("eve", "zoe"):
        world.subject(crowd, name, "person", face=0.84, closeness=0.7)

    for video, cup in (("shop", "red cup"), ("home", "red cup"), ("office", "blue cup")):
        world.source(video, seconds=10)
        world.subject(world.clip(video, 1, 7), cup, "thing", noun="cup", closeness=0.94)
    return world
