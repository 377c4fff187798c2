"""OpenS2V's totals and its NexusScore: what is published, and what it does with failures."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2v.evals.encoders import Vectors
from s2v.evals.errors import EvalError
from s2v.evals.metrics.base import Case, MetricSpec, RefImage
from s2v.evals.metrics.nexus import Box, Crop, NexusScore, nexus_score
from s2v.evals.opens2v import RANGES, WEIGHTS, normalised, total, total_of, values_of


def test_weights_add_up_to_one_and_both_ends_of_the_ranges_are_met() -> None:
    for weights in WEIGHTS.values():
        assert sum(weights.values()) == pytest.approx(1)
    # A model at the top of every range has 1, one at the bottom 0.
    for which in (0, 1):
        values = {name: [RANGES[name][which]] * 3 for name in WEIGHTS["v1.1", "open"]}
        assert total_of(values, "v1.1", "open", "zeros").total == pytest.approx(which)


def test_values_are_clipped_per_video_before_the_mean() -> None:
    assert normalised("Aesthetics", [9.0, 1.0], "published") == pytest.approx(0.5)
    assert normalised("Aesthetics", [5.5], "published") == pytest.approx(0.5)
    assert normalised("NaturalScore", [3.0, 4.0], "published") == pytest.approx(0.625)
    assert normalised("NexusScore", [0.01, 0.2], "published") == pytest.approx(0.6)


def test_a_model_that_fails_is_judged_by_what_it_managed_only_as_published() -> None:
    values = [0.05, 0.0, None, None]
    assert normalised("NexusScore", values, "published") == pytest.approx(1.0)
    assert normalised("NexusScore", values, "zeros") == pytest.approx(0.25)
    # Zeros of other metrics are kept by the published script.
    assert normalised("FaceSim", [0.5, 0.0, None], "published") == pytest.approx(0.25)
    assert normalised("FaceSim", [], "published") == normalised("FaceSim", [None], "zeros") == 0.0
    found = total_of({n: [None] for n in WEIGHTS["v1.0", "human"]}, "v1.0", "human", "zeros")
    assert found.total == 0.0
    assert found.missing["FaceSim"] == 1


def test_a_missing_or_unknown_part_is_named() -> None:
    with pytest.raises(EvalError, match="needs FaceSim, GmeScore"):
        total({"Aesthetics": 1, "Motion": 1, "NaturalScore": 1}, "v1.0", "human")
    with pytest.raises(EvalError, match="no metric 'Beauty'"):
        normalised("Beauty", [1.0], "zeros")


def test_a_runs_own_parts_are_read_with_their_failures(tmp_path: Path) -> None:
    def row(protocol: str, status: str, score: float | None, source: str = "generated") -> Any:
        return {
            "sample_id": "s", "source": source, "model": "m", "protocol": protocol,
            "status": status, "score": score,
        }  # fmt: skip

    rows = [
        row("facesim.cur@ir101.opens2v~12345678", "scored", 0.5),
        row("facesim.cur@ir101.opens2v~12345678", "failed", None),
        row("facesim.cur@ir101.opens2v~12345678", "not_applicable", None),
        row("facesim.cur@ir101.opens2v~12345678", "scored", 0.9, "real"),
        row("motion-amplitude@opens2v", "scored", 0.2),
        row("motion.light.farneback", "scored", 3.0),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "per_sample.parquet")
    assert values_of(tmp_path) == {
        "Motion": [0.2], "MotionAmplitude": [0.2], "FaceSim": [0.5, None],
    }  # fmt: skip
    assert values_of(tmp_path, "other") == {}
    with pytest.raises(EvalError, match="s2v-eval run"):
        values_of(tmp_path / "nowhere")


def seen_in(frames: int, like: float = 0.8) -> list[Crop]:
    return [Crop(n, 0, 0.9, 0.5, like) for n in range(frames)]


def test_flicker_raises_the_published_score_and_lowers_ours() -> None:
    always, twice = nexus_score(seen_in(32), 32, 1), nexus_score(seen_in(2), 32, 1)
    assert always["published"] == pytest.approx(0.8 / 32)
    assert twice["published"] == pytest.approx(0.8 / 2)
    assert (always["undivided"], twice["undivided"]) == (pytest.approx(0.8), pytest.approx(0.8))
    assert (always["presence"], twice["presence"]) == (pytest.approx(0.8), pytest.approx(0.05))
    assert nexus_score([], 32, 1)["published"] == 0.0


def test_weak_boxes_and_other_things_do_not_count_but_divide() -> None:
    crops = [Crop(0, 0, 0.9, 0.5, 0.8), Crop(1, 0, 0.55, 0.5, 0.9), Crop(1, 1, 0.9, 0.2, 0.9)]
    found = nexus_score(crops, 2, 2)
    assert found["published"] == pytest.approx(0.8 / 2)
    assert found["published_v1.0"] == pytest.approx(0.8 / 3)
    assert found["seen_rate"] == 0.25
    with pytest.raises(ValueError, match="0 references"):
        nexus_score([], 2, 0)


class Square:
    """Finds a bright square."""

    id = "square"

    def find(self, frame: Any, example: Any) -> list[Box]:
        rows, columns = np.nonzero(frame.max(axis=2) > 200)
        if not rows.size:
            return []
        return [Box((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), 0.9)]


class Colours:
    """Colour of an image, colour word of a text."""

    id = "colours"

    def embed_images(self, images: list[Any]) -> Vectors:
        means = np.stack([i.reshape(-1, 3).mean(0) for i in images]).astype(np.float32) + 1e-6
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def embed_texts(self, texts: list[str]) -> Vectors:
        return np.eye(3, dtype=np.float32)[[["red", "green", "blue"].index(t) for t in texts]]


def test_the_reference_is_found_cut_out_and_compared() -> None:
    spec = MetricSpec("test", 1, "t", "t", "u", 0, 1, "higher", "c", "l", "n")
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    empty = np.full((40, 60, 3), 90, np.uint8)
    shown = empty.copy()
    shown[10:26, 20:36] = red
    wrong = empty.copy()
    wrong[10:26, 20:36] = (0, 255, 0)
    metric = NexusScore(spec, Square, Colours)

    def measure(frames: list[Any], **ref: Any) -> Any:
        references = (RefImage(red, phrase="red", **ref),)
        return metric.measure(Case(dict(enumerate(frames)), [0, 1], references))

    assert measure([shown, shown]).score == pytest.approx(1.0, abs=1e-4)
    assert measure([shown, empty]).score == pytest.approx(0.5, abs=1e-4)
    assert measure([shown, empty]).parts["published"] == pytest.approx(1.0, abs=1e-4)
    assert measure([wrong, wrong]).score == 0.0
    assert measure([shown, shown], is_face=True).reason == "no_reference_but_faces"
