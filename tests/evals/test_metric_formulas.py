"""Each published formula on cases small enough to work out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.evals.metrics import base, face, motion, subject, text

E = np.eye(4)


def peer(reference: str, prompt: str = "p", **vectors: object) -> base.Peer:
    arrays = {k: np.asarray(v, dtype=float) for k, v in vectors.items()}
    return base.Peer(reference, prompt, base.scored(0.5, {}, arrays))


# Face similarity


def test_zero_keep_counts_strangers_as_zero_and_skips_faceless_frames() -> None:
    score, parts = face.face_score([0.8, -0.4, 0.0], frames=4)
    assert score == pytest.approx(0.8 / 3)
    assert parts["face_rate"] == 0.75
    assert parts["score_zero"] == pytest.approx(0.2)
    assert parts["minimum"] == 0.0


def test_a_video_without_faces_scores_zero_instead_of_vanishing() -> None:
    score, parts = face.face_score([], frames=8)
    assert (score, parts["face_rate"], parts["score_zero"]) == (0.0, 0.0, 0.0)


def test_an_identity_that_drifts_away_shows_as_drop() -> None:
    _, parts = face.face_score([0.9, 0.9, 0.5, 0.4, 0.1, 0.1], frames=6)
    assert parts["drop"] == pytest.approx(0.8)
    assert face.face_score([0.5, 0.4], frames=2)[1]["drop"] == 0.0


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12), st.integers(0, 5), st.randoms())
def test_face_score_ignores_frame_order_and_stays_in_range(
    values: list[float], faceless: int, random: object
) -> None:
    shuffled = sorted(values)
    a = face.face_score(values, len(values) + faceless)
    b = face.face_score(shuffled, len(values) + faceless)
    assert a[0] == pytest.approx(b[0])
    assert 0 <= a[1]["score_zero"] <= a[0] + 1e-12 <= 1 + 1e-12


@pytest.mark.parametrize("bad", [([math.nan], 1), ([0.1, 0.2], 1), ([], 0)])
def test_impossible_face_measurements_are_refused(bad: tuple[list[float], int]) -> None:
    with pytest.raises(ValueError, match=r"NaN|faces"):
        face.face_score(*bad)


def test_cosine_and_distance_of_known_vectors() -> None:
    faces = np.array([[2.0, 0, 0, 0], [0, 3, 0, 0], [-1, 0, 0, 0]])
    assert face.cosine(5 * E[0], faces) == pytest.approx([1, 0, -1])
    shifted = np.array([E[0], E[0] + 0.6 * E[1]])
    assert face.one_minus_distance(E[0], shifted) == pytest.approx([1.0, 0.4])


# Subject similarity


def test_mean_cosine_of_identical_orthogonal_and_opposite() -> None:
    assert subject.mean_cosine([E[0]], [E[0], E[0]]) == pytest.approx(1.0)
    assert subject.mean_cosine([E[0]], [E[1], E[2]]) == pytest.approx(0.0)
    assert subject.mean_cosine([E[0], E[1]], [E[0], -E[0]]) == pytest.approx(0.0)
    assert subject.mean_cosine([E[0], E[1]], [E[0]]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("references", "frames", "what"),
    [
        (np.zeros((0, 4)), [E[0]], "mean cosine"),
        ([E[0]], [2 * E[0]], "unit length"),
        ([E[0]], [E[0] * math.nan], "unit length"),
        ([E[0]], [np.eye(3)[0]], "width"),
    ],
)
def test_embeddings_that_are_not_embeddings_are_refused(
    references: object, frames: object, what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        subject.mean_cosine(np.asarray(references), np.asarray(frames))


def test_isolating_a_subject_keeps_its_pixels_and_whitens_the_rest() -> None:
    image = np.full((100, 200, 3), 7, np.uint8)
    mask = np.zeros((100, 200), bool)
    mask[20:60, 50:150] = True
    crop = subject.isolate(image, mask)
    assert crop is not None
    assert crop.shape == (40 + 2 * 4, 100 + 2 * 10, 3)
    assert (crop[4:-4, 10:-10] == 7).all()
    assert (crop[:4] == 255).all()
    assert (crop[:, :10] == 255).all()


def test_a_subject_at_the_border_is_cropped_not_wrapped_around() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:10, :10] = True
    crop = subject.isolate(np.zeros((40, 40, 3), np.uint8), mask)
    assert crop is not None
    assert crop.shape == (11, 11, 3)


def test_a_speck_is_no_subject() -> None:
    mask = np.zeros((100, 100), bool)
    mask[0, 0] = True
    assert subject.isolate(np.zeros((100, 100, 3), np.uint8), mask) is None
    with pytest.raises(ValueError, match="does not fit"):
        subject.isolate(np.zeros((100, 99, 3), np.uint8), mask)


def test_baseline_takes_only_other_references_and_is_none_without_any() -> None:
    same = [peer("a", references=[E[0]], mean_frame=E[0]) for _ in range(2)]
    other = peer("b", references=[E[0], E[1]], mean_frame=E[1])
    assert subject.other_references([*same, other]) == pytest.approx([0.5, 0.5, 0.0])
    assert subject.other_references(same) == [None, None]


def test_a_failed_sample_lends_nothing_to_the_baseline() -> None:
    broken = base.Peer("b", "p", base.failed("reference_without_subject"))
    good = peer("a", references=[E[0]], mean_frame=E[0])
    assert subject.other_references([good, broken]) == [None, None]


# Text alignment


def test_text_score_is_a_hundred_times_the_cosine_and_may_be_negative() -> None:
    assert text.text_score(E[0], E[0]) == 100.0
    assert text.text_score((E[0] + E[1]) / 2, E[0]) == pytest.approx(50.0)
    assert text.text_score(-E[0], E[0]) == -100.0


def test_shuffled_captions_never_use_a_samples_own_words() -> None:
    metric = text.TextAlignment(base_spec(), lambda: pytest.fail("no model is needed"))
    peers = [
        peer("a", "cat", mean_frame=E[0], text=E[0]),
        peer("b", "cat", mean_frame=E[1], text=E[0]),
        peer("c", "dog", mean_frame=E[1], text=E[1]),
    ]
    assert metric.baselines(peers) == pytest.approx([0.0, 100.0, 0.0])
    assert metric.baselines(peers[:2]) == [None, None]


# Motion


def constant_flow(dx: float, dy: float) -> np.ndarray:
    return np.tile(np.array([dx, dy], np.float32), (256, 256, 1))


@pytest.mark.parametrize("flow", [(3, 4), (-3, 4), (5, 0), (-3, -4)])
def test_direction_does_not_cancel_motion(flow: tuple[float, float]) -> None:
    assert motion.speed(constant_flow(*flow), 0.5) == pytest.approx(5 / 256 / 0.5, rel=1e-5)


def test_dynamic_threshold_is_vbenchs() -> None:
    # 256 short side: more than 6 px in at least a quarter of the pairs.
    assert motion.is_dynamic([6.1, 6.1, 0, 0, 0, 0, 0, 0], 256, [1] * 8)
    assert not motion.is_dynamic([6.1, 0, 0, 0, 0, 0, 0, 0], 256, [1] * 8)
    assert not motion.is_dynamic([6.0] * 8, 256, [1] * 8)
    assert motion.is_dynamic([11.3] * 16, 480, [1] * 16)
    assert not motion.is_dynamic([11.2] * 16, 480, [1] * 16)
    # Twice as far apart in time: twice the motion is allowed.
    assert not motion.is_dynamic([11.9] * 8, 256, [2] * 8)


def test_strongest_is_the_top_twentieth() -> None:
    flow = constant_flow(0, 0)
    flow[:8, :, 0] = 10  # 8 of 256 rows: 3.1 % of the pixels
    assert motion.strongest(flow) == pytest.approx(10 * (8 * 256) / int(256 * 256 * 0.05), rel=1e-4)


def base_spec() -> base.MetricSpec:
    return base.MetricSpec("test", 1, "t", "t", "u", 0, 1, "higher", "c", "l", "n")


def test_nan_scores_and_parts_never_leave_a_metric() -> None:
    with pytest.raises(ValueError, match="score"):
        base.scored(math.nan)
    with pytest.raises(ValueError, match="rate"):
        base.scored(0.1, {"rate": math.inf})
