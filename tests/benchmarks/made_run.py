"""A made run of any size, as measuring and the first steps of the selection leave it.

Two subjects a clip, a hundred clips a long video, one clip in twenty a photograph; half people, a
fifth creatures, the rest things; three sampled frames a clip with a box each; ten candidates a
subject on average, a tenth of them of the same one. Scores are drawn around means and spreads like
those of the demo's film. Pictures and models are not made, and vectors in the measure tables are
16 numbers wide: a selection that only asks other bounds looks at none of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from s2v.datapipe import pipeline
from s2v.datapipe.base import records
from s2v.datapipe.base.settings import load
from s2v.datapipe.config import Settings
from s2v.datapipe.curate import write_run_json
from s2v.datapipe.pair import steps as steps_module
from s2v.datapipe.pair.columns import whole
from s2v.datapipe.pair.evidence import SEARCHES, Evidence
from s2v.datapipe.pair.identity import FaceBank, Links
from s2v.datapipe.pair.select import BOX_REASONS, FACE_REASONS, select
from s2v.datapipe.pair.settings import BANKS
from s2v.datapipe.pair.steps import CLIP_REASONS, Clips, Steps
from s2v.datapipe.pair.stepstore import digest_of
from s2v.datapipe.pair.subjects import SubjectView
from s2v.datapipe.serving import make_roles
from s2v.datapipe.staging import list_run
from s2v.datapipe.views import stamp, write_views

PER_CLIP, CLIPS_PER_FILM, PHOTOGRAPHS, CANDIDATES = 2, 100, 20, 10
KINDS = {"person": 0.5, "creature": 0.2, "thing": 0.3}
FACE_WIDTH, NARROW = 128, 16
SLOT_US, LONG_US = 12_000_000, 6_000_000
MOMENTS = (0.05, 0.5, 0.95)
UNIT_CLIPS = 2000
MEASURED = "made"


class Made:
    """A run of ``n`` subjects, from clips to evidence."""

    def __init__(self, n: int) -> None:
        self.rng = np.random.default_rng(n)
        self.n = n
        clips = np.arange(-(-n // PER_CLIP))
        films = clips // CLIPS_PER_FILM
        self.image = clips % PHOTOGRAPHS == 0
        source = np.where(self.image, clips, films)
        start = np.where(self.image, 0, clips % CLIPS_PER_FILM * 12_000_000)
        end = np.where(self.image, 0, start + 6_000_000)
        self.video = [
            f"photo-{s:07d}" if image else f"film-{s:06d}"
            for s, image in zip(source.tolist(), self.image.tolist(), strict=True)
        ]
        self.clip_ids = [
            f"{video}-{a // 1000:08d}-{b // 1000:08d}"
            for video, a, b in zip(self.video, start.tolist(), end.tolist(), strict=True)
        ]
        order = np.argsort(np.array(self.clip_ids), kind="stable")
        self.order = order
        self.clip_ids = [self.clip_ids[i] for i in order]
        self.video = [self.video[i] for i in order]
        self.image, self.start, self.end = self.image[order], start[order], end[order]
        self.film = films[order]  # people of a photograph may be those of this film

    def tables(self, sources: list[dict[str, Any]]) -> dict[str, pa.Table]:
        """All measure tables.

        Args:
            sources: rows of table SOURCES, as they were listed.
        """
        made = {name: schema.empty_table() for name, schema in records.TABLES.items()}
        for name in ("subjects", "pairs", "samples"):
            del made[name]
        made["sources"] = records.table("sources", sources)
        for name, columns in self._of_sources().items():
            made[name] = _filled(records.TABLES[name], columns, len(columns["video_id"]))
        for name, columns in {**self._of_clips(), **self._of_boxes()}.items():
            count = len(next(iter(columns.values())))
            made[name] = _filled(records.TABLES[name], columns, count)
        return made

    def _of_sources(self) -> dict[str, dict[str, Any]]:
        """Probes, and spans without a hole."""
        films = sorted({v for v, image in zip(self.video, self.image, strict=True) if not image})
        photos = [v for v, image in zip(self.video, self.image, strict=True) if image]
        video = np.flatnonzero(~self.image)
        names = [self.video[i] for i in video]
        slots = np.arange(CLIPS_PER_FILM)
        free = slots[slots % PHOTOGRAPHS == 0]  # where the photographs would be
        spans = {
            "video_id": [*names, *names, *(f for f in films for _ in free)],
            "start_us": np.concatenate(
                [self.start[video], self.end[video], np.tile(free * SLOT_US, len(films))]
            ),
            "end_us": np.concatenate(
                [
                    self.end[video],
                    self.start[video] + SLOT_US,
                    np.tile((free + 1) * SLOT_US, len(films)),
                ]
            ),
            "clip_id": [self.clip_ids[i] for i in video]
            + [None] * (len(video) + len(free) * len(films)),
            "reason": [None] * len(video)
            + ["made between"] * (len(video) + len(free) * len(films)),
        }
        length = CLIPS_PER_FILM * SLOT_US
        probe = {
            "video_id": [*films, *photos],
            "width": np.full(len(films) + len(photos), 1920),
            "height": np.full(len(films) + len(photos), 1080),
            "duration_us": np.repeat([length, 0], [len(films), len(photos)]),
        }
        return {"probe": probe, "spans": spans}

    def _of_clips(self) -> dict[str, dict[str, Any]]:
        count = len(self.clip_ids)
        clips = {
            "clip_id": self.clip_ids,
            "video_id": self.video,
            "long_video_id": self.video,
            "kind": np.where(self.image, "image", "video").tolist(),
            "start_us": self.start,
            "end_us": self.end,
        }
        captions = {
            "clip_id": self.clip_ids,
            "caption": [f"A scene of clip {n} with two subjects in it." for n in range(count)],
        }
        scores = {
            name: {"clip_id": self.clip_ids, column: self.rng.random(count)}
            for name, column in (
                ("overlays", "text_share"),
                ("quality", "blur"),
                ("people", "count_stable"),
            )
        }
        frames = {
            "frame_id": self.frames(),
            "clip_id": [clip for clip in self.clip_ids for _ in MOMENTS],
            "position": np.tile(MOMENTS, count),
            "pts_us": self.pts().ravel(),
            "phash": [f"{n:016x}" for n in self.rng.integers(0, 2**62, 3 * count).tolist()],
            "blur": self.rng.random(3 * count) * 100,
        }
        return {"clips": clips, "captions": captions, "frames": frames, **scores}

    def _of_boxes(self) -> dict[str, dict[str, Any]]:
        said, boxes = self.said, self.boxes
        count = len(boxes["detection_id"])
        narrow = _lists(self.rng.random((count, NARROW), np.float32))
        faced = np.repeat(self.person, len(MOMENTS))
        faces = int(faced.sum())
        phrases = {
            **{k: said[k] for k in ("subject_id", "clip_id", "phrase", "noun", "bank")},
            "start": said["phrase_start"],
            "end": said["phrase_end"],
        }
        detected = {k: boxes[k] for k in ("detection_id", "clip_id")}
        return {
            "phrases": phrases,
            "detections": boxes,
            "masks": {**detected, "rle": ["made" * 64] * count},
            "embeddings": {**detected, "subject": narrow, "background": narrow},
            "faces": {
                "frame_id": pa.array(boxes["frame_id"]).filter(pa.array(faced)),
                "face": (np.flatnonzero(faced) // len(MOMENTS)) % PER_CLIP,
                "embedding": _lists(self.rng.random((faces, NARROW), np.float32)),
            },
        }

    def pts(self) -> np.ndarray:
        """When a clip's frames were sampled, ``[clips, moments]``."""
        moments = np.array(MOMENTS)
        return (self.start[:, None] + (self.end - self.start)[:, None] * moments).astype(np.int64)

    def frames(self) -> list[str]:
        """Ids of all frames, a clip's together; a photograph has three too, of its one picture."""
        return [
            f"{clip}-f{p // 1000:08d}-{n}"
            for clip, row in zip(self.clip_ids, self.pts().tolist(), strict=True)
            for n, p in enumerate(row)
        ]

    def clips(self, *_: Any) -> Clips:
        """Step 1."""
        count = len(self.clip_ids)
        table = _filled(CLIP_REASONS, {"clip_id": self.clip_ids}, count)
        near = pa.table({"a": self.clip_ids[:-1:50], "b": self.clip_ids[1::50]})
        return Clips(table, near, digest_of(table))

    def subjects(self, *_: Any) -> SubjectView:
        """Step 2."""
        n = self.n
        clip = np.arange(n) // PER_CLIP
        self.clip, self.bank = clip, self.rng.choice(len(BANKS), n, p=_shares())
        ids = [f"{self.clip_ids[c]}-s{i % PER_CLIP}" for i, c in enumerate(clip.tolist())]
        frame = np.array(self.frames(), object).reshape(-1, len(MOMENTS))[clip]
        pts = self.pts()[clip]
        place = np.arange(n) % PER_CLIP
        detections = np.array(
            [[f"{f}-{p}" for f in row] for row, p in zip(frame, place, strict=True)], object
        )
        self.person = self.bank == BANKS.index("person")
        box = pa.FixedSizeListArray.from_arrays(
            pa.array(np.tile(np.array([10, 20, 200, 300], np.float32), n)), 4
        )
        said = {
            "subject_id": ids,
            "clip_id": pa.array(self.clip_ids).take(pa.array(clip)),
            "video_id": pa.array(self.video).take(pa.array(clip)),
            "long_video_id": pa.array(self.video).take(pa.array(clip)),
            "kind": np.where(self.image[clip], "image", "video").tolist(),
            "start_us": self.start[clip],
            "end_us": self.end[clip],
            "phrase": [f"a subject in colour {i % 97}" for i in range(n)],
            "phrase_start": np.arange(n) % PER_CLIP * 30,
            "phrase_end": np.arange(n) % PER_CLIP * 30 + 20,
            "noun": [f"noun {i % 211}" for i in range(n)],
            "bank": pa.array(BANKS).take(pa.array(self.bank)),
            "detection_id": detections[:, 1].tolist(),
            "frame_id": frame[:, 1].tolist(),
            "pts_us": pts[:, 1],
            "box": box,
            "area_share": np.round(self.rng.uniform(0.05, 0.6, n), 6),
            "score": np.round(self.rng.uniform(0.3, 0.99, n), 6),
            "detections": np.full(n, 3),
            "embedder": pa.array(["embedder"]).take(pa.array(np.zeros(n, np.int64))),
            "face_embedder": pa.array(np.where(self.person, "faces", ""), mask=~self.person),
        }
        table = _filled(records.SUBJECTS, said, n)
        self.said = said
        per = len(MOMENTS)
        self.boxes = {
            "detection_id": detections.ravel().tolist(),
            "subject_id": pa.array(ids).take(pa.array(np.repeat(np.arange(n), per))),
            "clip_id": said["clip_id"].take(pa.array(np.repeat(np.arange(n), per))),
            "frame_id": frame.ravel().tolist(),
            "pts_us": pts.ravel(),
            "box": box.take(pa.array(np.repeat(np.arange(n), per))),
            "score": np.repeat(said["score"], per),
            "area_share": np.repeat(said["area_share"], per),
        }
        passing = _filled(records.DETECTIONS, self.boxes, n * per)
        judged = {k: self.boxes[k] for k in ("detection_id", "subject_id")}
        boxes = _filled(BOX_REASONS, judged, n * per)
        faces = self._of_boxes()["faces"]
        reasons = {name: faces[name] for name in ("frame_id", "face")}
        judged_faces = _filled(FACE_REASONS, reasons, len(faces["face"]))
        return SubjectView(table, passing, boxes, judged_faces)

    def evidence(self, *_: Any) -> Evidence:
        """Step 3, the pairs: neighbours of the same bank, mostly of the same film."""
        rng, n = self.rng, self.n
        target = np.repeat(np.arange(n), rng.poisson(CANDIDATES * 1.1, n))  # some are met twice
        span = PER_CLIP * CLIPS_PER_FILM
        near = target // span * span + rng.integers(0, span, len(target))
        far = rng.integers(0, n, len(target))
        far_off = rng.random(len(target)) < 0.2
        reference = np.where(far_off, far, near).clip(0, n - 1)
        fits = (self.bank[target] == self.bank[reference]) & (
            self.clip[target] != self.clip[reference]
        )
        # Every target keeps its number: those of another bank are drawn again nearby.
        other = (target + PER_CLIP * rng.integers(1, 40, len(target))) % n
        reference = np.where(fits, reference, other)
        pairs = np.unique(target * n + reference)
        target, reference = pairs // n, pairs % n
        same_video = _codes(self.video)
        alike = same_video[self.clip[target]] == same_video[self.clip[reference]]
        self.names = rng.integers(0, 12, n)  # who of a film's cast somebody is
        same = alike & (self.names[target] == self.names[reference])
        same |= ~alike & (rng.random(len(target)) < 0.1)
        person = self.person[target]
        both = person & self.person[reference]
        search = np.select(
            [~alike & person, ~alike, both],
            [SEARCHES.index("faces"), SEARCHES.index("all"), SEARCHES.index("joint")],
            SEARCHES.index("own"),
        ).astype(np.int8)
        body = _drawn(rng, same, 0.86, 0.05, 0.70, 0.07)
        face = np.where(both, _drawn(rng, same, 0.68, 0.08, 0.35, 0.07), np.nan)
        joint = np.round((body + face) / 2, 6)
        order = np.where(search == SEARCHES.index("faces"), face, body)
        order = np.where(np.isnan(order), body, order)
        at = np.lexsort((reference, -order, search, target))
        bits = [rng.integers(4, 45, len(target)).astype(np.int8) for _ in range(3)]
        gap = np.where(alike, np.abs(self.start[self.clip[target]] - 6_000_000), -1)
        columns = {
            "target_at": target.astype(np.int32),
            "reference_at": reference.astype(np.int32),
            "bank_at": self.bank[target].astype(np.int8),
            "search": search,
            "order": order,
            "similarity": body,
            "face_similarity": face,
            "joint_similarity": joint,
            "background_similarity": np.round(rng.uniform(0.3, 0.95, len(target)), 6),
            "phash_distance": bits[0],
            "face_phash_distance": np.where(both, bits[1], np.int8(-1)),
            "frame_phash_distance": bits[2],
            "gap_us": gap,
            "same_clip": self.clip[target] == self.clip[reference],
            "same_frame": np.zeros(len(target), np.bool_),
            "same_long_video": alike,
            "same_noun": same | (rng.random(len(target)) < 0.5),
            "duplicate": np.zeros(len(target), np.bool_),
        }
        ids = self.view_ids
        return Evidence(ids=ids, **{name: column[at] for name, column in columns.items()})

    def faces(self, *_: Any) -> FaceBank:
        """Step 3, the faces: around one vector per film and name."""
        at = np.flatnonzero(self.person)
        who = at // (PER_CLIP * CLIPS_PER_FILM) * 12 + self.names[at]
        base = self.rng.standard_normal((int(who.max()) + 1, FACE_WIDTH)).astype(np.float32)
        vectors = base[who]
        vectors += self.rng.standard_normal(vectors.shape, np.float32) * np.float32(0.6)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        order = np.lexsort((at, who))
        a, b = at[order][:-1], at[order][1:]
        alike = who[order][:-1] == who[order][1:]
        return FaceBank(at, vectors, Links.of(a[alike], b[alike], np.full(alike.sum(), 0.7)))


def _shares() -> list[float]:
    return [KINDS[bank] for bank in BANKS]


def _codes(names: list[str]) -> np.ndarray:
    return whole(pa.array(names).dictionary_encode()).indices.to_numpy()


def _drawn(
    rng: np.random.Generator, same: np.ndarray, mean: float, spread: float, other: float, off: float
) -> np.ndarray:
    """Cosines of the same and of other subjects, not below what a search would still list."""
    drawn = np.where(same, rng.normal(mean, spread, len(same)), rng.normal(other, off, len(same)))
    return np.round(np.clip(drawn, other - 2 * off, 0.999), 6)


def _filled(schema: pa.Schema, columns: dict[str, Any], count: int) -> pa.Table:
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(count, field.type))
        else:
            made = values if isinstance(values, pa.Array) else pa.array(values)
            arrays.append(made if made.type == field.type else made.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _lists(rows: np.ndarray) -> pa.Array:
    """Rows as lists of float32."""
    edges = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(edges), pa.array(rows.ravel()))


def make(folder: Path, n: int) -> None:
    """Lay a whole run out in ``folder``, selected once by the defaults; ``folder.toml`` beside it.

    Commits are there by their names only, as many as a run of this size has: a selection after
    which nothing was measured does not open them.
    """
    made = Made(n)
    settings = _configuration(folder, made)
    roles = make_roles(settings)
    plan = pipeline.plan(settings, roles)
    sources = list_run(folder, settings.sources, settings.downloads, quiet=True)
    units = -(-len(made.clip_ids) // UNIT_CLIPS)
    for name, run in plan.items():
        of_source = name in (*pipeline.BY_SOURCE, *pipeline.BY_WINDOW)
        place = folder / "measure" / f"{name}-{run.fingerprint}"
        place.mkdir(parents=True)
        for unit in range(len(sources) if of_source else units):
            (place / f"unit-{unit:06d}.000.json").write_text("{}")
    view = made.subjects()
    tables = made.tables(sources)
    made.view_ids = whole(view.table["subject_id"])
    steps = Steps(folder / "select", MEASURED)
    with (
        mock.patch.object(steps_module, "_clips", made.clips),
        mock.patch.object(steps_module, "_subjects", return_value=view),
        mock.patch.object(steps_module, "find_candidates", made.evidence),
        mock.patch.object(steps_module, "find_faces", made.faces),
        mock.patch.object(steps_module, "FrameHashes"),
    ):
        selection = select(tables, settings.select, steps=steps)
    write_views(
        *(folder, tables, selection),
        measured=tables,
        stamped=stamp(folder, settings.model_dump(mode="json"), plan, sources),
        digest=MEASURED,
    )
    write_run_json(folder, settings, roles)


def _configuration(folder: Path, made: Made) -> Settings:
    """A manifest of small files, and a configuration that names it."""
    inputs = folder.with_name(f"{folder.name}-input")
    inputs.mkdir(parents=True)
    with (inputs / "manifest.jsonl").open("w") as out:
        for video in sorted(set(made.video)):
            kind = "image" if video.startswith("photo") else "video"
            path = inputs / f"{video}.{'jpg' if kind == 'image' else 'mp4'}"
            path.write_text(video)
            row = {"video_id": video, "path": str(path), "kind": kind, "licence": "made"}
            out.write(json.dumps(row) + "\n")
    config = folder.with_name(f"{folder.name}.toml")
    config.write_text(
        f'folder = "{folder}"\n[engine]\nunit_clips = {UNIT_CLIPS}\n'
        f'[[sources]]\nmanifest = "{inputs / "manifest.jsonl"}"\n'
    )
    return load(Settings, config, [])
