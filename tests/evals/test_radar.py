"""The radar: closed forms of each reduction, and the real adapters over random weights on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_faces import open_clip_config
from torch.nn import functional

from s2v.datapipe.base.assets.extract import sha256_of
from s2v.evals.encoders import Vectors
from s2v.evals.encoders.flow import RaftFlow
from s2v.evals.encoders.image_towers import open_clip_tower
from s2v.evals.encoders.local import Weights
from s2v.evals.encoders.nets import musiq
from s2v.evals.encoders.production import Encoders
from s2v.evals.encoders.quality import AestheticHead, MlpHead, MusiqQuality, musiq_pixels
from s2v.evals.errors import EvalError
from s2v.evals.frames import every
from s2v.evals.metrics import SUITES, build, protocols, specs
from s2v.evals.metrics.base import Case, MetricSpec
from s2v.evals.metrics.consistency import FrameConsistency, consistency_score
from s2v.evals.metrics.motion import DynamicDegree, farneback, signed_amplitude, speed
from s2v.evals.metrics.quality import FrameQuality
from s2v.evals.metrics.smoothness import Flicker, Smoothness, Structure, between, returned

SPEC = MetricSpec("test", 1, "t", "t", "u", 0, 1, "higher", "c", "l", "n")
A, B = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def picture(height: int = 90, width: int = 160, seed: int = 0) -> Any:
    """Noise that is redder than it is blue, so that swapped channels are seen."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return (noise * np.array([1.0, 0.6, 0.2])).astype(np.uint8)


def wide_clip(folder: Path) -> tuple[Path, Path]:
    """A tiny CLIP whose vectors are as wide as ViT-L/14's, and its random state dict."""
    open_clip = pytest.importorskip("open_clip")
    config = open_clip_config(folder / "tiny.json")
    settings = json.loads(config.read_text()) | {"embed_dim": 768}
    config.write_text(json.dumps(settings))
    net = open_clip.model.CLIP(**settings)
    return config, random_file(net, folder / "clip.pth")


def case(frames: list[Any], fps: int = 8) -> Case:
    return Case(dict(enumerate(frames)), [i * 1_000_000 // fps for i in range(len(frames))])


def wall(seed: int = 0, height: int = 200, width: int = 320) -> Any:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3))
    return cv2.resize(noise.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def panned(step: int, n: int = 6, size: int = 128) -> list[Any]:
    big = wall(3, 200, 320)
    return [np.ascontiguousarray(big[20 : 20 + size, i * step : i * step + size]) for i in range(n)]


def test_consistency_of_the_same_of_alternating_and_of_opposite_frames() -> None:
    assert consistency_score([A] * 4)[0] == 1.0
    score, parts = consistency_score([A, B, A, B, A])
    assert (parts["previous"], parts["first"]) == (0.0, 0.5)
    assert score == 0.25
    assert consistency_score([A, -A])[0] == 0.0
    with pytest.raises(ValueError, match="two frames"):
        consistency_score([A])


class Colour:
    id = "colour"

    def embed(self, images: list[Any]) -> Vectors:
        means = np.stack([i.reshape(-1, 3).mean(0) for i in images]).astype(np.float32) + 1e-6
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def test_a_single_frame_is_not_divided_by_zero_and_every_frame_is_seen() -> None:
    metric = FrameConsistency(SPEC, Colour)
    red, green = (np.full((8, 8, 3), c, np.uint8) for c in ((255, 0, 0), (0, 255, 0)))
    assert metric.measure(case([red])).reason == "single_frame"
    found = metric.measure(case([red] * 9 + [green]))
    assert found.score == pytest.approx(8 / 9, abs=1e-4)


def test_the_mean_over_videos_does_not_depend_on_how_they_are_dealt_out() -> None:
    """VBench's own mean is over frames on one GPU and over videos on several."""
    metric = FrameConsistency(SPEC, Colour)
    red, green = (np.full((8, 8, 3), c, np.uint8) for c in ((255, 0, 0), (0, 255, 0)))
    videos = [case([red] * 2), case([red, green] * 20), case([green] * 5)]
    alone = [metric.measure(v).score for v in videos]
    assert alone == [metric.measure(v).score for v in videos[::-1]][::-1]
    assert np.mean([s for s in alone if s is not None]) == pytest.approx((1 + alone[1] + 1) / 3)


def test_a_ramp_is_smooth_and_black_and_white_in_turn_is_not() -> None:
    grey = [np.full((64, 64, 3), 20 * i, np.uint8) for i in range(9)]
    assert Smoothness(SPEC).measure(case(grey)).score == pytest.approx(1.0, abs=1e-3)
    flash = [np.full((64, 64, 3), 255 * (i % 2), np.uint8) for i in range(9)]
    assert Smoothness(SPEC).measure(case(flash)).score == pytest.approx(0.0, abs=1e-3)
    assert Smoothness(SPEC).measure(case(grey[:2])).reason == "fewer_than_3_frames"


def test_a_pan_is_smooth_and_one_that_stutters_is_less() -> None:
    frames = panned(3, 8)
    smooth = Smoothness(SPEC).measure(case(frames)).score
    stutter = [frames[i // 2 * 2 + (i % 2) * 3] if i < 6 else frames[i] for i in range(8)]
    broken = Smoothness(SPEC).measure(case(stutter)).score
    assert smooth is not None
    assert broken is not None
    assert smooth > 0.97 > broken
    # Halfway between two frames lies the one between them, not a double exposure.
    middle = between(frames[0], frames[2])
    ours = np.abs(middle - cv2.resize(frames[1], (256, 256), interpolation=cv2.INTER_LINEAR))
    double = np.abs(frames[0].astype(float) - frames[1]).mean()
    assert ours[20:-20, 20:-20].mean() < double / 3


def test_flicker_is_asked_only_of_what_stands_still() -> None:
    still = [wall(1, 64, 64)] * 6
    assert Flicker(SPEC).measure(case(still)).score == 1.0
    blink = [np.full((64, 64, 3), 120 + 10 * (i % 2), np.uint8) for i in range(6)]
    assert Flicker(SPEC).measure(case(blink)).score == pytest.approx(1 - 10 / 255)
    assert Flicker(SPEC).measure(case(panned(6))).reason == "something_moves"


def test_a_pan_can_be_followed_back_and_noise_cannot() -> None:
    kept = Structure(SPEC).measure(case(panned(3))).score
    lost = Structure(SPEC).measure(case([wall(i, 128, 128) for i in range(6)])).score
    assert kept is not None
    assert lost is not None
    assert kept > 0.9
    assert lost < 0.5
    there = np.full((9, 9, 2), 3.0, np.float32)
    assert returned(there, -there).all()
    assert not returned(there, there).any()


def test_opens2vs_amplitude_cancels_where_the_magnitude_does_not() -> None:
    """The table of the published harness's own defect: pan, diagonal, return, zoom."""
    y, x = np.mgrid[-32:32, -48:48].astype(np.float32)
    one = np.ones_like(x)
    flows = {
        "pan": [np.stack([2 * one, 0 * one], -1)] * 4,
        "diagonal": [np.stack([2 * one, -2 * one], -1)] * 4,
        "return": [np.stack([s * 2 * one, 0 * one], -1) for s in (1, 1, -1, -1)],
        "zoom": [np.stack([(x + 0.5) / 16, (y + 0.5) / 16], -1)] * 4,
    }
    found = {name: signed_amplitude(maps) for name, maps in flows.items()}
    assert found["pan"] == (pytest.approx(1.0), pytest.approx(2.0))
    for name in ("diagonal", "return", "zoom"):
        assert found[name][0] < 1e-5, name
        assert found[name][1] > 1.4, name
    slow = signed_amplitude([np.stack([one / 2, 0 * one], -1)])
    assert slow == (pytest.approx(0.25), pytest.approx(0.5))


def test_the_amplitude_of_a_real_pan_is_its_shift_and_needs_every_frame() -> None:
    metric = next(iter(build("motion-amplitude@opens2v")))
    assert metric.plan(range(7)) == list(range(7))
    found = metric.measure(case(panned(2)))
    assert found.score == pytest.approx(1.0, abs=0.15)  # (2 + 0) / 2 pixels, clipped at 1
    assert found.parts["magnitude"] == pytest.approx(2.0, abs=0.25)
    assert metric.measure(case(panned(2)[:1])).reason == "single_frame"
    # Ours is per second and frame height: the same pan at twice the rate is twice as fast.
    flow = farneback(*panned(2)[:2])
    assert speed(flow, 0.125) == pytest.approx(2 * speed(flow, 0.25))


class Still:
    id = "still"

    def __init__(self, pixels: float) -> None:
        self.pixels = pixels

    def flow(self, first: Any, second: Any) -> Vectors:
        return np.full((*first.shape[:2], 2), self.pixels / np.sqrt(2), np.float32)


def test_dynamic_degrees_threshold_grows_with_the_frame() -> None:
    for side, threshold in ((480, 11.25), (720, 16.875), (256, 6.0)):
        frames = [np.zeros((side, side + 8, 3), np.uint8)] * 4
        for off, answer in ((0.05, 1.0), (-0.05, 0.0)):
            metric = DynamicDegree(SPEC, lambda p=threshold + off: Still(p))
            assert metric.measure(case(frames)).score == answer, (side, off)
    metric = DynamicDegree(SPEC, lambda: Still(0))
    assert metric.plan([i * 41_667 for i in range(25)]) == list(range(0, 25, 3))
    assert metric.plan([0]) == [0]


def random_file(net: torch.nn.Module, path: Path, *, below: str | None = None) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {
        k: torch.randn(v.shape, generator=generator) * 0.2 + (0.5 if k.endswith("var") else 0)
        if v.dtype.is_floating_point
        else v
        for k, v in net.state_dict().items()
    }
    state = {k: v.abs() if k.endswith("running_var") else v for k, v in state.items()}
    torch.save({below: state} if below else state, path)
    return path


SMALL = musiq.Layout(stem=32, width=24, hidden=48, heads=2, layers=2)


def test_musiq_has_the_released_names_and_shapes() -> None:
    with torch.device("meta"):
        state = musiq.MUSIQ().state_dict()
    for name, shape in {
        "conv_root.weight": (64, 3, 7, 7),
        "block1.conv_proj.weight": (256, 64, 1, 1),
        "block1.gn_proj.bias": (256,),
        "embedding.weight": (384, 16384),
        "transformer_encoder.posembed_input.position_emb": (1, 100, 384),
        "transformer_encoder.scaleembed_input.scale_emb": (3, 384),
        "transformer_encoder.cls": (1, 1, 384),
        "transformer_encoder.transformer.encoderblock_13.attention.query.bias": (384,),
        "transformer_encoder.transformer.encoderblock_0.mlp.fc1.weight": (1152, 384),
        "transformer_encoder.encoder_norm.weight": (384,),
        "head.weight": (1, 384),
    }.items():
        assert tuple(state[name].shape) == shape, name
    assert not any("conv_root.bias" in name for name in state)


def test_musiq_sees_places_scales_and_colours_in_order(tmp_path: Path) -> None:
    path = random_file(musiq.MUSIQ(SMALL), tmp_path / "m.pth", below="params")
    scorer = MusiqQuality(path, musiq.MUSIQ(SMALL))
    image = picture(120, 200)
    first = scorer.score([image, image[:, ::-1].copy()])
    assert np.array_equal(first, scorer.score([image, image[:, ::-1].copy()]))
    assert first[0] != first[1]
    assert first[0] != scorer.score([image[..., ::-1].copy()])[0]
    assert musiq_pixels(np.zeros((720, 1280, 3), np.uint8)).shape == (1, 3, 288, 512)
    assert musiq_pixels(np.zeros((300, 400, 3), np.uint8)).shape == (1, 3, 300, 400)
    with pytest.raises(EvalError, match=r"m\.pth: not a state dict of MUSIQ"):
        MusiqQuality(path)


def test_musiqs_places_are_those_of_a_stretched_grid() -> None:
    assert musiq.places_of(10, 10, 10).tolist() == list(range(100))
    assert musiq.places_of(2, 3, 10).tolist() == [0, 3, 6, 50, 53, 56]
    x = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert musiq.same(x, 3, 2).shape[-2:] == (7, 7)
    assert torch.equal(musiq.same(x, 2, 2), functional.pad(x, [0, 1, 0, 1]))


def test_the_two_aesthetic_heads_are_what_their_files_are(tmp_path: Path) -> None:
    config, weights = wide_clip(tmp_path / "clip")
    tower = open_clip_tower(weights, config.name, folder=config.parent)
    head = AestheticHead(tower, random_file(MlpHead(), tmp_path / "mlp.pth"), MlpHead())
    assert sorted(head._head.state_dict()) == sorted(
        f"layers.{n}.{kind}" for n in (0, 2, 4, 6, 7) for kind in ("weight", "bias")
    )
    image = picture()
    vector = torch.from_numpy(tower.embed([image]))
    by_hand = vector
    for n in (0, 2, 4, 6, 7):
        layer = head._head.layers[n]
        by_hand = by_hand @ layer.weight.T + layer.bias
    assert head.score([image])[0] == pytest.approx(float(by_hand), rel=1e-4)


def test_raft_pads_cuts_and_answers_in_the_frames_own_pixels(tmp_path: Path) -> None:
    small = pytest.importorskip("torchvision.models.optical_flow").raft_small
    path = random_file(small(weights=None), tmp_path / "raft.pth")
    raft = RaftFlow(path, small(weights=None))
    first, second = picture(130, 140, 1), picture(130, 140, 2)
    found = raft.flow(first, second)
    assert found.shape == (130, 140, 2)
    assert np.isfinite(found).all()
    assert np.array_equal(found, raft.flow(first, second))
    with pytest.raises(EvalError, match=r"raft\.pth: not a state dict of RAFT"):
        RaftFlow(path)


def test_the_radar_needs_weights_only_where_it_says_so(tmp_path: Path) -> None:
    assert "structure.light.flow-return" in protocols("radar")
    build("radar")
    for protocol in SUITES["published-radar"]:
        spec = next(s for s in specs() if s.protocol == protocol)
        if spec.local:
            with pytest.raises(EvalError, match="not named"):
                build(protocol)
    mlp = random_file(MlpHead(), tmp_path / "mlp.pth")
    config, weights = wide_clip(tmp_path / "clip")
    file = tmp_path / "weights.toml"
    file.write_text(
        f'[aesthetic_mlp]\npath = "mlp.pth"\nsha256 = "{sha256_of(mlp)}"\n'
        f'[clip_l14]\npath = "clip/{weights.name}"\nsha256 = "{sha256_of(weights)}"\n'
        f'model = "clip/{config.name}"\n'
    )
    (metric,) = build("aesthetics@laion-mlp.opens2v", Encoders(Weights.read(file)))
    assert metric.spec.protocol.startswith("aesthetics@laion-mlp.opens2v~")
    found = metric.measure(case([picture(seed=i) for i in range(3)]))
    assert found.score is not None
    assert len(metric.plan(range(100))) == 32


def test_a_frame_too_small_to_judge_is_said_and_not_scored() -> None:
    class TooSmall:
        id = "n"

        def score(self, images: list[Any]) -> Vectors:
            return np.full(len(images), np.nan, np.float32)

    metric = FrameQuality(SPEC, TooSmall, every)
    assert metric.measure(case([wall()])).reason == "frames_too_small"
