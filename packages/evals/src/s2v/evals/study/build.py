"""``study build``: from manifests of generated videos to pages that raters open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2v.datapipe.base.atomic import sha256_file, write_bytes
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.media.cut import cut_clip
from s2v.datapipe.base.media.images import encode_jpeg, resize
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.progress import track
from s2v.evals import media
from s2v.evals.errors import EvalError
from s2v.evals.inspection import inspect
from s2v.evals.manifest import Manifest, Sample, load_manifest
from s2v.evals.study.design import Mode, Slot, plan
from s2v.evals.study.page import write_page
from s2v.evals.study.records import (
    KEY_FILE,
    QUESTIONS,
    RATE_FOLDER,
    Group,
    Item,
    Key,
)

MAX_SIDE = 720
_CRF = 16  # visually lossless: what is rated is the model, not the encoder
_DAMAGED_SIDE = 24
_REFERENCE = 480


@dataclass(frozen=True)
class _Answered:
    """A reference and prompt with one video per model."""

    manifest: Manifest
    sample: Sample
    videos: dict[str, tuple[Manifest, Sample]]


def build(
    manifests: Sequence[str | Path],
    out: str | Path,
    *,
    mode: Mode = "scale",
    raters: int = 20,
    groups: int | None = None,
    per_rater: int = 10,
    gold: int = 2,
    repeats: int = 2,
    seed: int = 0,
    models: Sequence[str] | None = None,
    progress: bool = False,
) -> Key:
    """Write a study.

    ``OUT/rate`` is what raters get: one page each, and media under names that say nothing. All
    videos are encoded alike, without sound and metadata, so that no file betrays its model.
    ``OUT/key.json`` unblinds them and stays with the builder.

    Args:
        manifests: with generated videos; together they hold all models.
        out: folder, which must be new or empty.
        mode: one video on a scale of 1 to 3, or two side by side.
        raters: number of pages.
        groups: references and prompts used at most, spread over references; by default all.
        per_rater: of these in each session.
        gold: items with a known answer (a damaged copy) in each session.
        repeats: items shown twice in each session.
        seed: of all choices.
        models: compared; by default all of the manifests.
        progress: show a bar (or lines) on standard error.

    Returns:
        The key, as written.

    Raises:
        EvalError: nothing that all models answered, an impossible number, a used folder, a
            video or reference that cannot be read.
        MediaError: the machine's fault, such as a full disk.
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        why = "a study under way must not change, choose another"
        if not (folder / KEY_FILE).exists():
            why = (
                "it holds no whole study (a build that was stopped?): choose another, or remove it"
            )
        raise EvalError(f"{folder}: not empty; {why}")
    answered, names = _answered([load_manifest(m) for m in manifests], models, groups)
    ids = {f"g{n:03d}": one for n, one in enumerate(answered, start=1)}
    sessions = plan(
        list(ids), names, mode=mode, raters=raters, per_rater=per_rater, gold=gold,
        repeats=repeats, seed=seed,
    )  # fmt: skip
    shots = _codes(sessions, seed)
    _check([ids[group].videos[model] for group, model, _ in sorted(shots)], quiet=not progress)
    rate = folder / RATE_FOLDER
    with track("encode", len(shots), quiet=not progress) as step:
        for (group, model, damaged), code in sorted(shots.items(), key=lambda kv: kv[1]):
            manifest, sample = ids[group].videos[model]
            target = rate / "media" / f"{code}.mp4"
            _encode(manifest.resolve(sample.video), target, damaged=damaged)
            step(note=code)
    used = sorted({group for group, _, _ in shots})
    stored = {group: _group(group, ids[group], rate / "media") for group in used}
    digests = [
        sha256_file(m.resolve(s.video)) for g in used for m, s in
        (ids[g].videos[name] for name in names)
    ]  # fmt: skip
    key = Key(
        study=stable_hash([mode, str(seed), *names, *map(str, (raters, per_rater, gold, repeats)),
                           *digests]),
        mode=mode,
        seed=seed,
        models=tuple(names),
        questions=QUESTIONS[mode],
        groups=stored,
        sessions={
            f"r{n:02d}": _items(slots, shots) for n, slots in enumerate(sessions, start=1)
        },
    )  # fmt: skip
    for rater in key.sessions:
        write_page(rate / f"{rater}.html", key, rater)
    text = key.model_dump_json(by_alias=True, indent=1) + "\n"
    write_bytes(folder / KEY_FILE, text.encode())
    return key


def _answered(
    manifests: Sequence[Manifest], wanted: Sequence[str] | None, most: int | None
) -> tuple[list[_Answered], list[str]]:
    """What every model answered, one video each (its lowest common seed), and the models."""
    found: dict[tuple[str, str], dict[str, dict[int | None, tuple[Manifest, Sample]]]]
    found = defaultdict(lambda: defaultdict(dict))
    for manifest in manifests:
        for sample in manifest.samples:
            if sample.source == "generated":
                by_seed = found[sample.reference_id, sample.prompt][sample.made_by]
                by_seed.setdefault(sample.seed, (manifest, sample))
    known = sorted({model for by_model in found.values() for model in by_model})
    names = sorted(set(wanted)) if wanted else known
    missing = sorted(set(names) - set(known))
    if missing or not names:
        raise EvalError(f"study: no generated videos of {missing}; the manifests have {known}")
    answered = []
    turn: dict[str, int] = defaultdict(int)
    turns = {}
    for key in sorted(found):
        by_model = found[key]
        if not all(name in by_model for name in names):
            continue
        common = set.intersection(*(set(by_model[name]) for name in names))
        seeds = sorted(common, key=lambda s: (s is None, s or 0))
        videos = {
            name: by_model[name][seeds[0]] if seeds else _lowest(by_model[name]) for name in names
        }
        first = videos[names[0]]
        turns[key] = turn[key[0]]
        turn[key[0]] += 1
        answered.append((key, _Answered(*first, videos)))
    # One prompt of every reference before the second of any.
    answered.sort(key=lambda one: (turns[one[0]], one[0]))
    return [one for _, one in answered[:most]], names


def _check(used: Sequence[tuple[Manifest, Sample]], *, quiet: bool) -> None:
    """Refuse broken media before anything is written: half a study is none.

    Raises:
        EvalError: naming the first, and how many.
    """
    unique = {(m.path, s.sample_id): (m, s) for m, s in used}
    found = []
    with track("check", len(unique), quiet=quiet) as step:
        for manifest, sample in unique.values():
            found += inspect(manifest, [sample], step=step)[1]
    if found:
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise EvalError(
            f"study: {len(found)} of {len(unique)} videos cannot be shown: {found[0]}{more}; "
            "`s2v-eval validate MANIFEST` lists all"
        )


def _lowest(by_seed: dict[int | None, tuple[Manifest, Sample]]) -> tuple[Manifest, Sample]:
    return by_seed[min(by_seed, key=lambda s: (s is None, s or 0))]


def _shots(slot: Slot) -> list[tuple[str, str, bool]]:
    return [(slot.group, model, slot.damaged == n) for n, model in enumerate(slot.models)]


def _codes(sessions: Sequence[Sequence[Slot]], seed: int) -> dict[tuple[str, str, bool], str]:
    """(group, model, damaged) -> code in shuffled order, so that no code tells of its model."""
    needed = sorted({shot for slots in sessions for slot in slots for shot in _shots(slot)})
    order = np.random.default_rng([seed, 1]).permutation(len(needed))
    return {shot: f"v{place:04d}" for shot, place in zip(needed, order, strict=True)}


def _items(slots: Sequence[Slot], shots: dict[tuple[str, str, bool], str]) -> tuple[Item, ...]:
    items = []
    for n, slot in enumerate(slots, start=1):
        expect = None
        if slot.kind == "gold":
            expect = "1" if len(slot.models) == 1 else ("right", "left")[slot.damaged or 0]
        items.append(
            Item(
                id=f"i{n:03d}",
                group=slot.group,
                models=slot.models,
                media=tuple(f"{shots[shot]}.mp4" for shot in _shots(slot)),
                kind=slot.kind,
                of=None if slot.of is None else f"i{slot.of + 1:03d}",
                expect=expect,
            )
        )
    return tuple(items)


def _encode(video: Path, target: Path, *, damaged: bool) -> None:
    """The whole video as H.264; a damaged one has so few pixels that nothing is left of it."""
    media.require_file(video)
    facts = probe(video)
    target.parent.mkdir(parents=True, exist_ok=True)
    side = _DAMAGED_SIDE if damaged else MAX_SIDE
    cut_clip(video, 0, facts.duration_us, target, short_side=side, crf=_CRF, source=facts)


def _group(group: str, one: _Answered, folder: Path) -> Group:
    names = []
    for n, ref in enumerate(one.sample.refs, start=1):
        image = media.read_image(one.manifest.resolve(ref.path))
        scale = min(1.0, _REFERENCE / max(image.shape[:2]))
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        name = f"{group}-{n}.jpg"
        write_bytes(folder / name, encode_jpeg(resize(image, size), 90))
        names.append(name)
    return Group(
        id=group,
        reference_id=one.sample.reference_id,
        prompt=one.sample.prompt,
        references=tuple(names),
        samples={model: sample.sample_id for model, (_, sample) in one.videos.items()},
    )
