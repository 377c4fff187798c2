"""Whole metrics with encoder doubles whose answers are known: what is passed to them, and when.

The doubles stand for networks only; frames, crops, flow and reductions are the real code.
"""

from typing import ClassVar

import cv2
import numpy as np
import pytest

from s2v.evals.encoders import Face, Image, Mask, Vectors
from s2v.evals.metrics import face, motion, subject, text
from s2v.evals.metrics.base import Case, Metric, MetricSpec, RefImage
from s2v.evals.metrics.identities import IdentitySimilarity

SPEC = MetricSpec("test", 1, "t", "t", "u", 0, 1, "higher", "c", "l", "n")
GREY = np.full((96, 128, 3), 128, np.uint8)


class CardDetectorDouble:
    """Finds bright rectangles, if they do not touch the border."""

    id = "cards"

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, image: Image) -> list[Face]:
        self.calls += 1
        bright = (image.max(axis=2) > 200).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
        height, width = bright.shape
        faces = []
        for x, y, w, h in stats[1:count, :4]:
            if x > 0 and y > 0 and x + w < width and y + h < height:
                box = np.array([x, y, x + w, y + h], np.float32)
                faces.append(Face(box, np.tile(box[:2], (5, 1)), 1.0))
        return faces


class HueDouble:
    """Identity of a card is its mean colour."""

    id = "hue"

    def embed(self, image: Image, face: Face) -> Vectors:
        x0, y0, x1, y1 = (int(v) for v in face.box)
        return image[max(0, y0) : y1, max(0, x0) : x1].reshape(-1, 3).mean(0).astype(np.float32)


class ColourDouble:
    """Mean colour as image embedding; colour words as text embedding."""

    id = "colour"
    WORDS: ClassVar = {"red": 0, "green": 1, "blue": 2}

    def __init__(self) -> None:
        self.seen: list[Image] = []

    def embed(self, images: list[Image]) -> Vectors:
        self.seen += images
        means = np.stack([i.reshape(-1, 3).mean(0) for i in images]).astype(np.float32) + 1e-3
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    embed_images = embed

    def embed_texts(self, texts: list[str]) -> Vectors:
        vectors = np.full((len(texts), 3), 1e-3, np.float32)
        for row, words in zip(vectors, texts, strict=True):
            for word in words.split():
                row[self.WORDS.get(word, 0)] += word in self.WORDS
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class BrightDouble:
    """The subject is what is not grey."""

    id = "bright"

    def mask(self, image: Image) -> Mask:
        return np.asarray(np.ptp(image, axis=2) > 40)


def card(colour: tuple[int, int, int], box: tuple[int, int, int, int], base: Image = GREY) -> Image:
    image = base.copy()
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = colour
    return image


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def case(frames: list[Image], references: list[RefImage], prompt: str = "", fps: int = 8) -> Case:
    times = [round(i * 1e6 / fps) for i in range(len(frames))]
    return Case(dict(enumerate(frames)), times, tuple(references), prompt)


def facesim(detector: CardDetectorDouble) -> face.FaceSimilarity:
    return face.FaceSimilarity(SPEC, lambda: detector, HueDouble, face.cosine)


def test_the_largest_face_of_each_frame_is_compared() -> None:
    small_red = card(RED, (5, 5, 25, 25))
    both = card(GREEN, (40, 20, 90, 80), small_red)
    reference = RefImage(card(RED, (30, 20, 80, 70)), is_face=True)
    got = facesim(CardDetectorDouble()).measure(case([small_red, both, GREY, GREY], [reference]))
    assert got.score == pytest.approx(0.5)
    assert got.parts["face_rate"] == 0.5
    assert got.parts["score_zero"] == pytest.approx(0.25)


def test_a_face_at_the_border_is_found_on_the_padded_image_at_its_true_place() -> None:
    image = card(RED, (0, 0, 40, 50))
    found = face.detect_largest(CardDetectorDouble(), image)
    assert found is not None
    assert found.box.tolist() == [0, 0, 40, 50]
    assert found.points[0].tolist() == [0, 0]
    assert face.detect_largest(CardDetectorDouble(), GREY) is None


def test_a_reference_without_face_is_a_named_failure_not_a_zero() -> None:
    got = facesim(CardDetectorDouble()).measure(case([GREY], [RefImage(GREY, is_face=True)]))
    assert (got.status, got.reason, got.score) == ("failed", "reference_without_face", None)


@pytest.mark.parametrize(
    ("faces", "reason"), [(0, "no_face_reference"), (2, "several_face_references")]
)
def test_face_similarity_says_when_it_does_not_apply(faces: int, reason: str) -> None:
    refs = [RefImage(GREY, is_face=True)] * faces + [RefImage(GREY)]
    got = facesim(CardDetectorDouble()).measure(case([GREY], refs))
    assert (got.status, got.reason) == ("not_applicable", reason)


def test_two_face_metrics_detect_only_once() -> None:
    detector = CardDetectorDouble()
    shown = case([card(RED, (30, 20, 80, 70))], [RefImage(card(RED, (9, 9, 60, 60)), is_face=True)])
    first, second = facesim(detector).measure(shown), facesim(detector).measure(shown)
    assert first.score == second.score == 1.0
    assert detector.calls == 2  # one reference, one frame


class CountingHueDouble(HueDouble):
    """Counts the faces it is asked to embed."""

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, image: Image, face: Face) -> Vectors:
        self.calls += 1
        return super().embed(image, face)


def test_each_face_is_embedded_once_however_many_face_metrics_look_at_it() -> None:
    small_red = card(RED, (5, 5, 25, 25))
    frames = [small_red, card(GREEN, (40, 20, 90, 80), small_red), GREY]
    reference = RefImage(card(RED, (30, 20, 80, 70)), is_face=True)

    def metrics(embedder: HueDouble) -> list[Metric]:
        detector = CardDetectorDouble()
        largest = face.FaceSimilarity(SPEC, lambda: detector, lambda: embedder, face.cosine)
        matched = IdentitySimilarity(
            SPEC, lambda: detector, lambda: embedder, face.cosine, threshold=0.5
        )
        return [largest, matched, largest]

    counting, shared = CountingHueDouble(), case(frames, [reference])
    together = [metric.measure(shared) for metric in metrics(counting)]
    assert counting.calls == 4  # the reference, one face of the first frame, two of the second
    alone = [metric.measure(case(frames, [reference])) for metric in metrics(HueDouble())]
    assert together == alone
    other = CountingHueDouble()
    other.id = "another network"
    metrics(other)[0].measure(shared)
    assert other.calls == 3


def test_strangers_level_of_a_face_uses_other_identities_only() -> None:
    metric = facesim(CardDetectorDouble())
    from s2v.evals.metrics.base import Peer

    red = RefImage(card(RED, (30, 20, 80, 70)), is_face=True)
    green = RefImage(card(GREEN, (30, 20, 80, 70)), is_face=True)
    peers = [
        Peer("r", "", metric.measure(case([red.image], [red]))),
        Peer("g", "", metric.measure(case([red.image], [green]))),
        Peer("g", "", metric.measure(case([GREY], [green]))),
    ]
    assert [p.measurement.score for p in peers] == pytest.approx([1, 0, 0])
    assert metric.baselines(peers) == pytest.approx([0, 1, 0])


def test_a_red_clip_is_nearer_to_a_red_reference_than_to_a_blue_one() -> None:
    metric = subject.SubjectSimilarity(SPEC, ColourDouble)
    frames = [card(RED, (0, 0, 100, 96))] * 3
    red, blue = RefImage(card(RED, (0, 0, 128, 96))), RefImage(card(BLUE, (0, 0, 128, 96)))
    near, far = (metric.measure(case(frames, [r])).score for r in (red, blue))
    assert near is not None
    assert far is not None
    assert near > far + 0.5
    assert metric.measure(case(frames, [red, blue])).score == pytest.approx((near + far) / 2)
    assert metric.measure(case(frames, [])).status == "not_applicable"


def test_segmenting_takes_the_background_out_of_the_score() -> None:
    on_blue = card(RED, (40, 30, 80, 70), np.full_like(GREY, (60, 60, 90)))
    reference = RefImage(card(RED, (40, 30, 80, 70)))
    whole = subject.SubjectSimilarity(SPEC, ColourDouble).measure(case([on_blue], [reference]))
    alone = subject.SegmentedSubjectSimilarity(SPEC, ColourDouble, BrightDouble).measure(
        case([on_blue], [reference])
    )
    assert alone.score == pytest.approx(1.0, abs=1e-5)
    assert whole.score is not None
    assert whole.score < 0.99


def test_a_references_own_mask_is_used_before_any_segmenter() -> None:
    embedder = ColourDouble()
    mask = np.zeros((96, 128), bool)
    mask[:, :64] = True
    half = card(GREEN, (64, 0, 128, 96), card(RED, (0, 0, 64, 96)))
    subject.SegmentedSubjectSimilarity(SPEC, lambda: embedder, BrightDouble).measure(
        case([half], [RefImage(half, mask)])
    )
    assert (embedder.seen[0][:, :64] == RED).all()
    assert (embedder.seen[0][:, 64:] == 255).all()


def test_frames_without_subject_lower_the_rate_and_a_video_without_scores_zero() -> None:
    metric = subject.SegmentedSubjectSimilarity(SPEC, ColourDouble, BrightDouble)
    shown, reference = card(RED, (40, 30, 80, 70)), RefImage(card(RED, (40, 30, 80, 70)))
    some = metric.measure(case([shown, GREY, shown, GREY], [reference]))
    assert (some.score, some.parts["seg_rate"]) == (pytest.approx(1.0, abs=1e-5), 0.5)
    none = metric.measure(case([GREY], [reference]))
    assert (none.status, none.score, none.parts["seg_rate"]) == ("scored", 0.0, 0.0)
    assert metric.measure(case([shown], [RefImage(GREY)])).reason == "reference_without_subject"


def test_the_prompt_that_names_what_is_shown_scores_higher() -> None:
    metric = text.TextAlignment(SPEC, ColourDouble)
    frames = [card(RED, (0, 0, 128, 96))] * 9
    right, wrong = (
        metric.measure(case(frames, [], words)).score for words in ("a red ball", "a blue ball")
    )
    assert right == pytest.approx(100.0, abs=0.5)
    assert wrong is not None
    assert wrong < 5
    assert metric.measure(case(frames, [], "  ")).status == "not_applicable"


# Motion has no network: Farneback runs for real on textures moved by known distances.


def texture(height: int, width: int) -> Image:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    big = cv2.resize(noise.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(big, np.uint8)


def pan(pixels: float, n: int = 9, size: int = 256, fps: int = 8, dy: float = 0) -> Case:
    big = texture(size * 2, size * 3)
    start = size // 2
    frames = []
    for i in range(n):
        matrix = np.array([[1, 0, -start - pixels * i], [0, 1, -start - dy * i]], np.float32)
        frames.append(np.asarray(cv2.warpAffine(big, matrix, (size, size)), np.uint8))
    return case(frames, [], fps=fps)


def amount(shown: Case) -> float:
    score = motion.MotionMagnitude(SPEC).measure(shown).score
    assert score is not None
    return score


def test_a_pan_of_known_speed_is_measured_in_frame_heights_per_second() -> None:
    assert amount(pan(2.0)) == pytest.approx(2 / 256 * 8, rel=0.06)


@pytest.mark.parametrize("direction", [(2.0, 0.0), (-2.0, 0.0), (0.0, 2.0)])
def test_no_direction_is_worth_more_than_another(direction: tuple[float, float]) -> None:
    dx, dy = direction
    assert amount(pan(dx, dy=dy)) == pytest.approx(2 / 256 * 8, rel=0.06)


def test_a_zoom_is_motion_though_its_signed_mean_is_nothing() -> None:
    image = texture(256, 256)
    frames = []
    for i in range(9):
        matrix = cv2.getRotationMatrix2D((128, 128), 0, 1 + 0.02 * i)
        frames.append(np.asarray(cv2.warpAffine(image, matrix, (256, 256)), np.uint8))
    signed = motion.farneback(frames[0], frames[1]).mean(axis=(0, 1))
    assert np.abs(signed).max() < 0.1
    assert amount(case(frames, [])) > 0.03


def test_frame_rate_and_size_do_not_change_the_speed() -> None:
    slow = amount(pan(2.0, n=9, fps=8))
    fast = amount(pan(2.0 / 3, n=25, fps=24))
    large = amount(pan(4.0, n=9, size=512))
    assert fast == pytest.approx(slow, rel=0.1)
    assert large == pytest.approx(slow, rel=0.1)


def test_still_video_is_not_dynamic_and_a_fast_pan_is() -> None:
    metric = motion.DynamicRate(SPEC)
    assert metric.measure(pan(0.0)).score == 0.0
    assert metric.measure(pan(2.0)).score == 0.0
    assert metric.measure(pan(12.0)).score == 1.0


def test_a_single_frame_has_no_motion_to_speak_of() -> None:
    single = pan(0.0, n=1)
    assert motion.MotionMagnitude(SPEC).measure(single).reason == "single_frame"
    assert motion.DynamicRate(SPEC).plan([0]) == []
