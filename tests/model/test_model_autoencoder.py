"""The linear autoencoder is principal components, and says how well it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from s2v.model import autoencoder
from s2v.model.autoencoder import LinearAutoencoder
from s2v.model.errors import ModelError


def _videos(n: int = 3, frames: int = 9) -> list[np.ndarray]:
    """Smooth moving gradients with noise: something to compress, and something to lose."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:32, :48]
    out = []
    for i in range(n):
        t = np.arange(frames)[:, None, None]
        phase = np.stack(
            [np.sin((x + (2 + i) * t) / (5 + c)) + np.cos(y / (4 + i)) for c in range(3)]
        )
        noise = random.normal(0, 6, (frames, 32, 48, 3))
        out.append(np.clip(phase.transpose(1, 2, 3, 0) * 50 + 128 + noise, 0, 255).astype(np.uint8))
    return out


def test_it_is_the_principal_subspace_in_closed_form() -> None:
    videos = _videos()
    made = autoencoder.fit(videos, channels=16)
    x = torch.cat([autoencoder.patches(v).reshape(-1, 768) for v in videos]).double()
    _, values, right = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    projector = made.basis.double() @ made.basis.double().T
    torch.testing.assert_close(projector, right[:16].T @ right[:16], atol=1e-3, rtol=0)
    share = values[:16].square().sum() / values.square().sum()
    assert made.explained == pytest.approx(float(share), abs=1e-4)
    z = torch.cat([made.encode(v).flatten(1) for v in videos], dim=1)
    torch.testing.assert_close(z.mean(dim=1), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.square().mean(dim=1), torch.ones(16), atol=1e-2, rtol=0)
    # No 16 other directions do better: random orthonormal ones are far behind.
    torch.manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(768, 16))
    random = LinearAutoencoder(q, made.mean, made.scale, 0.0)
    assert made.psnr(videos[0]) > random.psnr(videos[0]) + 3


def test_with_every_component_it_is_lossless() -> None:
    random = np.random.default_rng(1)
    videos = [random.integers(0, 256, (13, 64, 64, 3), dtype=np.uint8) for _ in range(4)]
    made = autoencoder.fit(videos, channels=768)
    # 1,024 patches span all 768 dimensions.
    assert np.abs(made.decode(made.encode(videos[0])).astype(int) - videos[0]).max() <= 1


def test_shapes_and_the_static_first_group() -> None:
    made = autoencoder.fit(_videos())
    video = _videos(1, 17)[0]
    z = made.encode(video)
    assert z.shape == (16, 5, 4, 6)
    assert made.decode(z).shape == video.shape
    # A reference image is a point of the same space as a first frame.
    torch.testing.assert_close(made.encode(video[:1]), z[:, :1])
    with pytest.raises(ValueError, match="4n \\+ 1"):
        made.encode(video[:8])
    with pytest.raises(ValueError, match="divide by 8"):
        made.encode(video[:, :30])


def test_global_scale_keeps_the_weights_of_pixels() -> None:
    made = autoencoder.fit(_videos(), normalise="global")
    z = torch.cat([made.encode(v).flatten(1) for v in _videos()], dim=1)
    power = z.square().mean(dim=1)
    assert float(power.mean()) == pytest.approx(1, abs=1e-2)
    assert (power.diff() < 1e-4).all()  # falling: the first component explains most


def test_the_same_frames_give_the_same_file_and_fingerprint(tmp_path: Path) -> None:
    for name in ("a", "b"):
        autoencoder.fit(_videos()).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = LinearAutoencoder.load(tmp_path / "a")
    assert loaded.fingerprint == autoencoder.fit(_videos()).fingerprint
    assert loaded.fingerprint != autoencoder.fit(_videos(2)).fingerprint


def test_what_is_not_an_autoencoder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no autoencoder here"):
        LinearAutoencoder.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ModelError, match="broken safetensors"):
        LinearAutoencoder.load(tmp_path / "text")
    with pytest.raises(ModelError, match="fit 16 channels"):
        autoencoder.fit([np.zeros((1, 8, 8, 3), np.uint8)])
