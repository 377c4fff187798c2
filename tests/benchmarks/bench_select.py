"""What it costs to select again after a changed threshold: no model, no vector, no search.

    python tests/benchmarks/bench_select.py [--subjects 10000 ...] [--run FOLDER] [--write]

Makes a run of so many subjects as the first steps of the selection leave it: two subjects a clip,
a hundred clips a long video, one clip in twenty a photograph; half people, a fifth creatures, the
rest things; ten candidates a subject on average, a tenth of them of the same one. Scores are drawn
around means and spreads like those of the demo's film. Vectors, pictures and models are not made:
a selection that only asks other bounds looks at none. Then every bound is moved, and a process of
its own selects again and writes subjects, pairs and samples. ``--run`` does the same with a
finished run's own rows; ``--write`` puts the table into docs/pairs.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from generated import machine, replace_generated

from s2v.datapipe.base import records
from s2v.datapipe.pair import steps as steps_module
from s2v.datapipe.pair.columns import whole
from s2v.datapipe.pair.evidence import SEARCHES, Evidence
from s2v.datapipe.pair.identity import FaceBank, Links
from s2v.datapipe.pair.select import BOX_REASONS, FACE_REASONS, select
from s2v.datapipe.pair.settings import BANKS, SelectSettings
from s2v.datapipe.pair.steps import CLIP_REASONS, Clips, Steps
from s2v.datapipe.pair.stepstore import digest_of
from s2v.datapipe.pair.subjects import SubjectView

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pairs.md"
PER_CLIP, CLIPS_PER_FILM, PHOTOGRAPHS, CANDIDATES = 2, 100, 20, 10
KINDS = {"person": 0.5, "creature": 0.2, "thing": 0.3}
MEASURED = "synthetic"
FACE_WIDTH = 128


class Lazy(Mapping[str, pa.Table]):
    """Tables that are read when asked for, as a selection that reads few of them wants it."""

    def __init__(self, folder: Path) -> None:
        self._paths = {path.stem: path for path in sorted(folder.glob("*.parquet"))}

    def __getitem__(self, name: str) -> pa.Table:
        return pq.read_table(self._paths[name], partitioning=None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


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

    def tables(self) -> dict[str, pa.Table]:
        """What a selection still reads of the measured rows."""
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
        return {
            name: _filled(records.TABLES[name], columns, count)
            for name, columns in (("clips", clips), ("captions", captions))
        }

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
        pts = (self.start[clip] + self.end[clip]) // 2
        frames = [
            f"{self.clip_ids[c]}-f{p // 1000:08d}"
            for c, p in zip(clip.tolist(), pts.tolist(), strict=True)
        ]
        detections = [f"{frame}-{i % PER_CLIP}" for i, frame in enumerate(frames)]
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
            "detection_id": detections,
            "frame_id": frames,
            "pts_us": pts,
            "box": box,
            "area_share": np.round(self.rng.uniform(0.05, 0.6, n), 6),
            "score": np.round(self.rng.uniform(0.3, 0.99, n), 6),
            "detections": np.full(n, 3),
            "embedder": pa.array(["embedder"]).take(pa.array(np.zeros(n, np.int64))),
            "face_embedder": pa.array(np.where(self.person, "faces", ""), mask=~self.person),
        }
        table = _filled(records.SUBJECTS, said, n)
        passing = _filled(
            records.DETECTIONS,
            {name: said[name] for name in ("detection_id", "subject_id", "clip_id", "frame_id")}
            | {name: said[name] for name in ("pts_us", "box", "score", "area_share")},
            n,
        )
        boxes = _filled(BOX_REASONS, {k: said[k] for k in ("detection_id", "subject_id")}, n)
        return SubjectView(table, passing, boxes, FACE_REASONS.empty_table())

    def evidence(self, *_: Any) -> Evidence:
        """Step 3, the pairs: neighbours of the same bank, mostly of the same film."""
        rng, n = self.rng, self.n
        target = np.repeat(np.arange(n), rng.poisson(CANDIDATES, n))
        span = PER_CLIP * CLIPS_PER_FILM
        near = target // span * span + rng.integers(0, span, len(target))
        far = rng.integers(0, n, len(target))
        across = rng.random(len(target)) < 0.2
        reference = np.where(across, far, near).clip(0, n - 1)
        fits = (self.bank[target] == self.bank[reference]) & (
            self.clip[target] != self.clip[reference]
        )
        # Every target keeps its number: those of another bank are drawn again nearby.
        other = (target + PER_CLIP * rng.integers(1, 40, len(target))) % n
        reference = np.where(fits, reference, other)
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


def make(folder: Path, n: int) -> None:
    """Let the selection keep the steps of a made run, by the way it keeps its own."""
    made = Made(n)
    tables = made.tables()
    (folder / "tables").mkdir(parents=True)
    for name, table in tables.items():
        pq.write_table(table, folder / "tables" / f"{name}.parquet")
    view = made.subjects()
    made.view_ids = whole(view.table["subject_id"])
    steps = Steps(folder / "select", MEASURED)
    with (
        mock.patch.object(steps_module, "_clips", made.clips),
        mock.patch.object(steps_module, "_subjects", return_value=view),
        mock.patch.object(steps_module, "find_candidates", made.evidence),
        mock.patch.object(steps_module, "find_faces", made.faces),
        mock.patch.object(steps_module, "FrameHashes"),
    ):
        clips = steps.clips(tables, SelectSettings(), ())
        found, digest = steps.subjects(tables, SelectSettings(), (), clips)
        pool = steps_module.Pool(found.table, clips.ids, clips.duplicate_of)
        steps.found(tables, SelectSettings(), digest, pool, clips)


def moved(settings: SelectSettings) -> SelectSettings:
    """All bounds a little tighter."""
    data = settings.model_dump(by_alias=True)
    for bank in BANKS:
        data["pair"][bank]["lower"] += 0.01
        data["pair"][bank]["upper"] -= 0.01
    data["pair"]["crop_bits"] += 1
    data["face"]["lower"] += 0.01
    return SelectSettings.model_validate(data)


def keep(folder: Path) -> Path:
    """Let the selection keep the steps of a finished run, beside that run."""
    at = Path(tempfile.mkdtemp(prefix="bench-select-")) / "run"
    at.mkdir()
    (at / "tables").symlink_to((folder / "tables").resolve())
    (at / "run.json").write_bytes((folder / "run.json").read_bytes())
    select(dict(Lazy(at / "tables")), settings_of(at), steps=Steps(at / "select", MEASURED))
    return at


def settings_of(folder: Path) -> SelectSettings:
    """A run's own settings, or the defaults for a made one."""
    path = folder / "run.json"
    said = json.loads(path.read_text())["settings"]["select"] if path.is_file() else {}
    return SelectSettings.model_validate(said)


def again(folder: Path) -> dict[str, Any]:
    """Select once more and write what changed, as ``s2v-data select`` does."""
    began = time.perf_counter()
    tables = Lazy(folder / "tables")
    steps = Steps(folder / "select", MEASURED)
    with mock.patch.object(steps_module, "find_candidates", side_effect=AssertionError("searched")):
        selection = select(tables, moved(settings_of(folder)), steps=steps)
    selected = time.perf_counter()
    for name in ("subjects", "pairs", "samples"):
        path = folder / f"again-{name}.parquet"
        pq.write_table(getattr(selection, name), path, compression="zstd")
    wrote = time.perf_counter()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "subjects": selection.subjects.num_rows,
        "pairs": selection.pairs.num_rows,
        "accepted": int(np.count_nonzero(selection.pairs["accepted"].to_numpy())),
        "identities": len(selection.subjects["identity_id"].unique()),
        "samples": selection.samples.num_rows,
        "select_s": round(selected - began, 1),
        "write_s": round(wrote - selected, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
    }


def measured(folder: Path) -> dict[str, Any]:
    """:func:`again` in a process of its own, imports and all."""
    command = [sys.executable, __file__, "--again", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout.strip(), flush=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table_of(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(results[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "--:|" * len(names)]
    lines += ["| " + " | ".join(f"{one[name]:,}" for name in names) + " |" for one in results]
    return "\n".join([*lines, "", f"{machine()}, one thread for numpy."])


def main() -> None:
    """Make, and measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--run", type=Path, help="a finished run, beside the made ones")
    parser.add_argument("--write", action="store_true", help="into docs/pairs.md")
    parser.add_argument("--again", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.again:
        print(json.dumps(again(args.again)))
        return
    results = []
    if args.run:
        folder = keep(args.run)
        results.append(measured(folder))
        shutil.rmtree(folder.parent)
    for n in args.subjects:
        with tempfile.TemporaryDirectory(prefix="bench-select-") as at:
            make(Path(at) / "run", n)
            results.append(measured(Path(at) / "run"))
    if args.write:
        replace_generated(PAGE, "select", table_of(results))


if __name__ == "__main__":
    main()
