"""The light protocols with their real networks on real people, animals and things."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.embedded.dlib_faces import NETWORK, PREDICTOR
from s2v.evals import media
from s2v.evals.encoders.dlib_face import DlibFace
from s2v.evals.encoders.production import Encoders
from s2v.evals.errors import EvalError
from s2v.evals.evaluator import make_evaluator
from s2v.evals.metrics import build, protocols, specs
from s2v.evals.metrics.base import Case, RefImage
from s2v.evals.metrics.face import cosine, detect_largest, one_minus_distance
from s2v.evals.run import evaluate

pytestmark = pytest.mark.assets

Image = Any


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return Encoders()


@pytest.fixture(scope="module")
def photo() -> Callable[[str], Image]:
    loaded: dict[str, Image] = {}

    def load(name: str) -> Image:
        if name not in loaded:
            image = media.read_image(asset(name))
            scale = min(1.0, 640 / max(image.shape[:2]))
            loaded[name] = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return loaded[name]

    return load


@pytest.fixture(scope="module")
def man_frames() -> list[Image]:
    times = media.frame_times(asset("man-clip"))
    return list(media.read_frames(asset("man-clip"), times, [0, len(times) // 2]).values())


def vector(encoders: Encoders, which: str, image: Image) -> Any:
    """The embedding of the largest face."""
    embedder = encoders.dlib_face if which == "dlib" else encoders.sface
    face = detect_largest(encoders.face_detector, image)
    assert face is not None
    return embedder.embed(image, face).astype(np.float64)


def between(which: str, a: Any, b: Any) -> float:
    how = one_minus_distance if which == "dlib" else cosine
    return float(how(a, b[None])[0])


def similarity(encoders: Encoders, which: str, a: Image, b: Image) -> float:
    return between(which, vector(encoders, which, a), vector(encoders, which, b))


@pytest.mark.parametrize(("which", "apart"), [("dlib", 0.4), ("sface", 0.45)])
def test_every_face_protocol_ranks_the_same_person_above_strangers(
    encoders: Encoders,
    photo: Callable[[str], Image],
    man_frames: list[Image],
    which: str,
    apart: float,
) -> None:
    people = {
        "man": [photo("man-photo"), man_frames[0]],
        "obama": [photo("obama-1"), photo("obama-2"), photo("obama-3")],
        "biden": [photo("biden")],
        "astronaut": [photo("astronaut")],
    }
    every = [
        (name, vector(encoders, which, image))
        for name, images in people.items()
        for image in images
    ]
    same, different = [], []
    for i, (name, first) in enumerate(every):
        for other, second in every[i + 1 :]:
            found = between(which, first, second)
            (same if name == other else different).append(found)
    assert len(same) == 4
    assert len(different) == 17
    assert min(same) > max(different)
    assert min(same) > apart > max(different)


def test_every_light_face_protocol_ranks_clips_of_one_person_above_those_of_others(
    encoders: Encoders,
    photo: Callable[[str], Image],
    pan: Callable[..., Any],
    encode_video: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Whole protocols on encoded clips: another photograph of him, himself in motion, strangers."""
    times = media.frame_times(asset("man-clip"))
    man = list(media.read_frames(asset("man-clip"), times, [0, 30, 60]).values())
    small = [cv2.resize(f, (480, 270), interpolation=cv2.INTER_AREA) for f in man]
    shown = {"man": small} | {
        name: pan(photo(name), n=3, step=2, size=(224, 224)) for name in ("obama-2", "biden")
    }
    references = {"man": "man-photo", "obama-2": "obama-1", "biden": None}
    cases = {}
    for name, frames in shown.items():
        video = encode_video(tmp_path / f"{name}.mp4", frames)
        at = media.frame_times(video)
        cases[name] = (media.read_frames(video, at, range(len(at))), at)
    for metric in build("faces", encoders):
        same, other = [], []
        for person, reference in references.items():
            if reference is None:
                continue
            refs = (RefImage(photo(reference), is_face=True),)
            for name, (frames, at) in cases.items():
                score = metric.measure(Case(frames, at, refs)).score
                assert score is not None
                (same if name == person else other).append(score)
        assert (len(same), len(other)) == (2, 4)
        assert min(same) > max(other) + 0.1, metric.spec.protocol


def test_two_people_who_change_places_in_one_clip_are_followed_and_a_swap_is_seen(
    encoders: Encoders, photo: Callable[[str], Image]
) -> None:
    def head(image: Image) -> Image:
        """The face in the middle, as large as everybody's."""
        face = detect_largest(encoders.face_detector, image)
        assert face is not None
        (x, y), half = (face.box[:2] + face.box[2:]) / 2, 0.9 * max(face.box[2:] - face.box[:2])
        edges = [max(0, round(float(v))) for v in (y - half, y + half, x - half, x + half)]
        cut = image[edges[0] : edges[1], edges[2] : edges[3]]
        return np.asarray(cv2.resize(cut, (256, 256)), np.uint8)

    one, two = (head(photo(n)) for n in ("obama-2", "biden"))
    refs = tuple(RefImage(photo(n), is_face=True) for n in ("obama-1", "biden"))
    straight, turned = np.hstack([one, two]), np.hstack([two, one])
    metric = build("identity.light.dlib", encoders)[0]

    def measure(*frames: Image) -> Any:
        return metric.measure(Case(dict(enumerate(frames)), list(range(len(frames))), refs)).parts

    kept = measure(straight, straight)
    assert (kept["success"], kept["swaps"], kept["unmatched_rate"]) == (1, 0, 0)
    swapped = measure(straight, turned)
    assert (swapped["success"], swapped["swaps"]) == (0, 2)
    alone = measure(np.hstack([one, np.full_like(two, 128)]), straight)
    assert alone["unmatched_rate"] == 0.25


def test_a_face_is_known_again_in_a_small_noisy_frame(
    encoders: Encoders, photo: Callable[[str], Image], man_frames: list[Image]
) -> None:
    small = cv2.resize(man_frames[0], (170, 96), interpolation=cv2.INTER_AREA)
    assert similarity(encoders, "dlib", photo("man-photo"), small) > 0.4
    assert similarity(encoders, "dlib", photo("obama-1"), small) < 0.3


def test_damaged_face_weights_are_named(tmp_path: Path) -> None:
    for name in (NETWORK, PREDICTOR):
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(EvalError, match=f"{tmp_path}: dlib cannot read the face weights"):
        DlibFace.from_folder(tmp_path)


def test_chip_colours_are_not_swapped(encoders: Encoders, photo: Callable[[str], Image]) -> None:
    """A BGR image is another face to the network: swapping must lower a match, not keep it."""
    right = similarity(encoders, "dlib", photo("obama-1"), photo("obama-2"))
    swapped = np.ascontiguousarray(photo("obama-2")[..., ::-1])
    assert right > similarity(encoders, "dlib", photo("obama-1"), swapped)


def test_the_isolated_subject_is_the_animal_and_not_the_whole_picture(
    encoders: Encoders, photo: Callable[[str], Image]
) -> None:
    mask = encoders.segmenter.mask(photo("quokka"))
    assert mask.shape == photo("quokka").shape[:2]
    assert 0.1 < mask.mean() < 0.7
    height, width = mask.shape
    assert mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3].mean() > 0.5


@pytest.fixture(scope="module")
def real_study(
    tmp_path_factory: pytest.TempPathFactory,
    photo: Any,
    pan: Any,
    encode_video: Any,
    empty_study: Any,
) -> Any:
    """Two people and a thing: pans over photographs as if generated, and a real clip."""
    root = tmp_path_factory.mktemp("real")
    study = empty_study(root, root / "cache")
    plan = (
        ("man", "man-photo", "man-photo", "a man outdoors", "person"),
        ("obama", "obama-2", "obama-1", "a man in a suit", "person"),
        ("cup", "coffee", "coffee", "a cup of coffee on a table", "thing"),
    )
    for name, shown, reference, prompt, kind in plan:
        encode_video(
            root / "videos" / f"{name}.mp4", pan(photo(shown), n=2, step=2, size=(256, 256))
        )
        PIL.Image.fromarray(photo(reference)).save(root / f"{name}.png")
        ref = {"path": f"{name}.png", "phrase": name, "class": kind, "is_face": kind == "person"}
        study.add(name, prompt=prompt, refs=[ref], reference_id=name)
    man = study.lines[0]["refs"]
    clip = str(asset("man-clip"))
    study.add(
        "man-real", video=clip, prompt="a man", refs=man, reference_id="man", source="real",
        model=None, seed=None,
    )  # fmt: skip
    return study


def test_the_light_suite_tells_right_from_chance_end_to_end(
    real_study: Any, encoders: Encoders, tmp_path: Path
) -> None:
    summary = evaluate(
        real_study.save(), tmp_path / "out", progress=False, replicates=500, encoders=encoders
    )
    found = {(r.protocol, r.source): r for r in summary.results if r.scenario is None}
    assert {p for p, _ in found} == set(protocols("light"))
    for protocol in ("facesim.light.dlib", "facesim.light.sface"):
        generated = found[protocol, "generated"]
        assert (generated.n, generated.n_expected) == (2, 2)
        assert generated.not_applicable == {"no_face_reference": 1}
        assert generated.rate == 1.0
        assert generated.mean is not None
        assert generated.baseline is not None
        assert generated.mean > generated.baseline + 0.3
        ceiling = found[protocol, "real"]
        assert ceiling.mean is not None
        assert ceiling.mean > 0.5
        assert ceiling.baseline is not None
        assert ceiling.baseline < 0.2
    for protocol in ("subjectsim.light.mobilenet", "subjectsim.light.mobilenet.seg"):
        result = found[protocol, "generated"]
        assert result.n == 3
        assert result.mean is not None
        assert result.baseline is not None
        assert result.mean > result.baseline + 0.1
    text = found["text.light.conse", "generated"]
    assert text.mean is not None
    assert text.baseline is not None
    assert text.mean > text.baseline + 10
    for result in summary.results:
        info = summary.info(result.protocol)
        assert result.mean is not None
        assert info.low <= result.mean <= (np.inf if info.high is None else info.high)

    # From the cache, and from nothing but freshly loaded nets: the same numbers to the last digit.
    cache = tmp_path / "out" / "cache"
    cached = evaluate(
        real_study.manifest, tmp_path / "two", progress=False, replicates=500, cache=cache
    )
    assert cached == summary
    fresh = evaluate(real_study.manifest, tmp_path / "three", progress=False, limit=1)
    assert fresh.n_samples == 1
    whole, again = (
        pq.read_table(tmp_path / name / "per_sample.parquet").to_pylist()
        for name in ("out", "three")
    )
    assert len(again) == len(protocols("light"))
    for row in again:
        twin = next(
            r
            for r in whole
            if (r["sample_id"], r["protocol"]) == (row["sample_id"], row["protocol"])
        )
        assert (row["score"], row["parts"]) == (twin["score"], twin["parts"])


def test_a_trainers_evaluator_gives_the_runs_numbers(
    encoders: Encoders, photo: Callable[[str], Image], pan: Any
) -> None:
    frames = np.stack(pan(photo("obama-2"), n=8, step=2, size=(256, 256)))
    reference = RefImage(photo("obama-1"), is_face=True)
    suite = "facesim.light.dlib,motion,subjectsim.light.mobilenet"
    scores = make_evaluator(suite, encoders)(frames, fps=8, references=[reference])
    times = [i * 125_000 for i in range(8)]
    case = Case(dict(enumerate(frames)), times, (reference,))
    for metric in build(suite, encoders):
        assert scores[metric.spec.protocol] == metric.measure(case).score
    assert scores["facesim.light.dlib/face_rate"] == 1.0
    assert scores["facesim.light.dlib"] > 0.4

    without = make_evaluator(suite, encoders)(frames, fps=8)
    assert sorted(k for k in without if "/" not in k) == [
        "dynamic.light.farneback",
        "motion.light.farneback",
    ]
    with pytest.raises(ValueError, match="expected RGB uint8"):
        make_evaluator("motion")(frames.astype(np.float32), fps=8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fps 0"):
        make_evaluator("motion")(frames, fps=0)


def test_every_protocol_says_what_it_is_from_and_is_not() -> None:
    for spec in specs():
        assert spec.citation
        assert spec.licence
        assert spec.caveat
        if ".light" in spec.protocol:
            assert not spec.local, spec.protocol
        else:
            assert "@" in spec.protocol, spec.protocol
        assert spec.high is None or spec.low < spec.high
    assert len({s.protocol for s in specs()}) == len(specs())
