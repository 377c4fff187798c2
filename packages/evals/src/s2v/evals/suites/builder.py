"""A suite after the paper: which references, prompts and seeds a model is asked.

Phantom's test set is 50 references x 3 prompts x 3 seeds (450 videos), 50 groups of several
references, and 50 portraits; the references are humans, animals, products, environments and
clothing (arXiv 2502.11079, section 4). Its images are not published, so a suite is drawn from
one's own pool, by the same counts.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from s2v.datapipe.base.atomic import write_json
from s2v.datapipe.base.progress import track
from s2v.datapipe.base.shards import ShardIndex
from s2v.evals import media
from s2v.evals.errors import EvalError
from s2v.evals.manifest import Reference, Sample, write_manifest
from s2v.evals.suites.leakage import FaceGuard, Leak, prompt_leaks, training_images
from s2v.evals.suites.pool import Entry, Pool, load_pool

Kind = Literal["single", "multi", "id"]

MANIFEST, RECORD = "manifest.jsonl", "suite.json"


@dataclass(frozen=True)
class Shape:
    """How many of what.

    Attributes:
        references: entries of the pool.
        prompts: of each.
        seeds: of each prompt, 0 to n - 1.
    """

    references: int
    prompts: int
    seeds: int

    @property
    def videos(self) -> int:
        """That a model must make."""
        return self.references * self.prompts * self.seeds


SHAPES: dict[Kind, Shape] = {
    "single": Shape(50, 3, 3),
    # How many prompts and seeds groups and portraits have is not published.
    "multi": Shape(50, 1, 1),
    "id": Shape(50, 3, 1),
}


@dataclass(frozen=True)
class Suite:
    """What was drawn.

    Attributes:
        kind: of suite.
        shape: counts.
        samples: with the place of a video that does not exist yet.
        categories: references of each.
        dropped: reference id -> why it could not be taken.
        leaks: those of them that the training data knows.
    """

    kind: Kind
    shape: Shape
    samples: tuple[Sample, ...]
    categories: dict[str, int]
    dropped: dict[str, str]
    leaks: tuple[Leak, ...]


def build_suite(
    pool: str | Path,
    out: str | Path,
    kind: Kind,
    *,
    shape: Shape | None = None,
    training: Sequence[str | Path] = (),
    guard: FaceGuard | None = None,
    model: str = "model",
    seed: int = 0,
    progress: bool = False,
) -> Suite:
    """Draw a suite and write ``manifest.jsonl`` and ``suite.json``.

    The manifest names ``videos/<sample id>.mp4`` beside it: what a model has to put there.

    Args:
        pool: JSON lines, see `s2v.evals.suites.pool.Entry`.
        out: folder.
        kind: ``single`` takes entries of one reference, ``multi`` of several, ``id`` portraits:
            one reference that is a face.
        shape: counts; by default the paper's.
        training: shard folders whose identities and captions must not be in the suite.
        guard: looks for faces; needed with ``training``, and always for portraits.
        model: name in the manifest.
        seed: of the draw, stratified by category.
        progress: show a bar (or lines) on standard error.

    Returns:
        The suite.

    Raises:
        EvalError: a wrong pool, or one with too few usable entries; the message counts them.
        MediaError: a reference that cannot be read.
    """
    parsed = load_pool(pool)
    wanted = shape or SHAPES[kind]
    if min(wanted.references, wanted.prompts, wanted.seeds) < 1:
        raise EvalError(f"suite: {wanted} asks for nothing")
    fitting, dropped = _fitting(parsed, kind, wanted)
    faces = _test_faces(parsed, fitting, guard, dropped)
    fitting = [entry for entry in fitting if entry.reference_id not in dropped]
    leaks = _leaks(fitting, faces, training, guard, progress=progress)
    dropped |= {leak.reference_id: f"{leak.reason} in training" for leak in leaks}
    clean = [entry for entry in fitting if entry.reference_id not in dropped]
    if len(clean) < wanted.references:
        why = ", ".join(f"{n} {w}" for w, n in sorted(Counter(dropped.values()).items()))
        raise EvalError(
            f"{parsed.path}: {len(clean)} of {len(parsed.entries)} entries can be taken for "
            f"{kind!r}, {wanted.references} are wanted ({why or 'none dropped'}); add entries or "
            "ask for fewer with --references"
        )
    chosen = _draw(clean, wanted.references, seed)
    folder = Path(out)
    samples = [s for entry in chosen for s in _samples(parsed, entry, wanted, model, folder)]
    suite = Suite(
        kind=kind,
        shape=wanted,
        samples=tuple(sorted(samples, key=lambda s: s.sample_id)),
        categories=dict(sorted(Counter(entry.category for entry in chosen).items())),
        dropped=dict(sorted(dropped.items())),
        leaks=tuple(leaks),
    )
    write_manifest(folder / MANIFEST, list(suite.samples))
    write_json(folder / RECORD, _record(parsed, suite, training, guard, seed))
    return suite


def _fitting(pool: Pool, kind: Kind, shape: Shape) -> tuple[list[Entry], dict[str, str]]:
    fitting, dropped = [], {}
    for entry in pool.entries:
        one = len(entry.refs) == 1
        if (kind == "multi") == one:
            dropped[entry.reference_id] = "one reference" if one else "several references"
        elif kind == "id" and len(entry.faces) != 1:
            dropped[entry.reference_id] = "no face reference"
        elif len(entry.prompts) < shape.prompts:
            dropped[entry.reference_id] = f"fewer than {shape.prompts} prompts"
        else:
            fitting.append(entry)
    return fitting, dropped


def _test_faces(
    pool: Pool, entries: Sequence[Entry], guard: FaceGuard | None, dropped: dict[str, str]
) -> dict[str, list[np.ndarray]]:
    """Vectors of each entry's faces; an entry whose face is not found is dropped.

    Without a found face nothing can be scored, and nothing can be guarded.
    """
    if guard is None:
        return {}
    found: dict[str, list[np.ndarray]] = {}
    for entry in entries:
        vectors = [guard.face(media.read_image(pool.resolve(ref.path))) for ref in entry.faces]
        if any(v is None for v in vectors):
            dropped[entry.reference_id] = "face not found"
        elif vectors:
            found[entry.reference_id] = [v for v in vectors if v is not None]
    return found


def _leaks(
    entries: Sequence[Entry],
    faces: dict[str, list[np.ndarray]],
    training: Sequence[str | Path],
    guard: FaceGuard | None,
    *,
    progress: bool,
) -> list[Leak]:
    if not training:
        return []
    if guard is None:
        raise EvalError("suite: training shards are named, but nothing that recognises faces")
    indexes = [ShardIndex.open(folder) for folder in training]
    with track("guard", sum(len(index) for index in indexes), quiet=not progress) as step:
        by_face = guard.leaks(faces, training_images(training, step))
    captions = ((s.id, str(s.row["caption"])) for index in indexes for s in index)
    by_prompt = prompt_leaks({e.reference_id: e.prompts for e in entries}, captions)
    known = {leak.reference_id for leak in by_face}
    return sorted(
        [*by_face, *(leak for leak in by_prompt if leak.reference_id not in known)],
        key=lambda leak: leak.reference_id,
    )


def _draw(entries: Sequence[Entry], count: int, seed: int) -> list[Entry]:
    """So many entries, categories in turn, each shuffled."""
    strata: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        strata[entry.category].append(entry)
    rng = np.random.default_rng(seed)
    queues = [
        [strata[name][i] for i in rng.permutation(len(strata[name]))] for name in sorted(strata)
    ]
    chosen: list[Entry] = []
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=lambda entry: entry.reference_id)


def _samples(pool: Pool, entry: Entry, shape: Shape, model: str, out: Path) -> list[Sample]:
    refs = tuple(_moved(pool, ref, out) for ref in entry.refs)
    made = []
    for n, prompt in enumerate(entry.prompts[: shape.prompts]):
        for seed in range(shape.seeds):
            name = f"{entry.reference_id}-p{n}-s{seed}"
            made.append(
                Sample(
                    sample_id=name,
                    video=f"videos/{name}.mp4",
                    prompt=prompt,
                    refs=refs,
                    seed=seed,
                    scenario=entry.category,
                    split="test",
                    model=model,
                    source="generated",
                    reference_id=entry.reference_id,
                )
            )
    return made


def _moved(pool: Pool, ref: Reference, out: Path) -> Reference:
    """The same files, seen from the suite's folder."""

    def seen(name: str) -> str:
        return Path(os.path.relpath(pool.resolve(name), out.resolve())).as_posix()

    mask = None if ref.mask is None else seen(ref.mask)
    return ref.model_copy(update={"path": seen(ref.path), "mask": mask})


def _record(
    pool: Pool, suite: Suite, training: Sequence[str | Path], guard: FaceGuard | None, seed: int
) -> dict[str, object]:
    return {
        "schema": "s2v-eval-suite/1",
        "kind": suite.kind,
        **asdict(suite.shape),
        "videos": suite.shape.videos,
        "seed": seed,
        "pool": {"name": pool.path.name, "sha256": pool.sha256, "entries": len(pool.entries)},
        "categories": suite.categories,
        "dropped": suite.dropped,
        "guard": {
            "training": [Path(folder).name for folder in training],
            "faces": None if guard is None else guard.id,
            "max_similarity": None if guard is None else guard.limit,
            "leaks": [asdict(leak) for leak in suite.leaks],
        },
    }
