"""The demo's latent space: a linear autoencoder, fitted in closed form.

Principal components of 4 x 8 x 8 space-time patches, 16 of them: the shapes of a video VAE
(stride 4, 8, 8; T' = (F - 1) / 4 + 1) with none of its art. It is fitted in seconds to the
frames at hand, and it blurs: its PSNR is measured on held-out frames and reported. It stands
where the paper has a trained 3D VAE, because no VAE comes inside a package.

The first frame, and a single reference image, is coded as a group of four equal frames in the
same basis, so that a reference and the video's frames are points of one space.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from s2v.datapipe.base.atomic import write_bytes
from s2v.model.errors import ModelError

STRIDE: Final = (4, 8, 8)
_FORMAT: Final = "s2v-linear-autoencoder-1"
Pixels = npt.NDArray[np.uint8]


def latent_frames(frames: int) -> int:
    """``(F - 1) / 4 + 1``.

    Raises:
        ValueError: ``frames`` is not 4n + 1.
    """
    if (frames - 1) % STRIDE[0]:
        raise ValueError(f"{frames} frames: the autoencoder takes 4n + 1 (1, 5, 9, ...)")
    return (frames - 1) // STRIDE[0] + 1


def patches(video: Pixels) -> Tensor:
    """Space-time patches of a video.

    Args:
        video: ``[F, H, W, 3]`` RGB, ``F = 4n + 1``; H and W divide by 8.

    Returns:
        ``[T', H/8, W/8, 768]`` float32 in [-1, 1].
    """
    F, H, W, _ = video.shape
    st, sh, sw = STRIDE
    T = latent_frames(F)
    if H % sh or W % sw:
        raise ValueError(f"{H} x {W} pixels: height and width must divide by {sh}")
    x = torch.from_numpy(np.ascontiguousarray(video)).float() / 127.5 - 1
    x = torch.cat([x[:1].expand(st - 1, -1, -1, -1), x])  # the first frame, four times
    x = x.reshape(T, st, H // sh, sh, W // sw, sw, 3).permute(0, 2, 4, 1, 3, 5, 6)
    return x.reshape(T, H // sh, W // sw, -1)


def _frames(x: Tensor) -> Pixels:
    """Inverse of :func:`patches`; the first group's four frames become their mean."""
    T, h, w, _ = x.shape
    st, sh, sw = STRIDE
    x = x.reshape(T, h, w, st, sh, sw, 3).permute(0, 3, 1, 4, 2, 5, 6)
    x = x.reshape(T * st, h * sh, w * sw, 3)
    x = torch.cat([x[:st].mean(dim=0, keepdim=True), x[st:]])
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


@dataclass(frozen=True)
class LinearAutoencoder:
    """``z = (patch - mean) basis / scale`` and back.

    Attributes:
        basis: ``[768, C]`` orthonormal columns, by falling variance.
        mean: ``[768]``.
        scale: ``[C]`` divides the coefficients.
        explained: share of the fitted patches' variance that the basis keeps.
    """

    basis: Tensor
    mean: Tensor
    scale: Tensor
    explained: float

    @property
    def channels(self) -> int:
        """C, latent channels."""
        return int(self.basis.shape[1])

    @property
    def fingerprint(self) -> str:
        """16 hex over the stored numbers: latents of another fingerprint do not fit."""
        digest = hashlib.sha256(_FORMAT.encode())
        for tensor in (self.basis, self.mean, self.scale):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def encode(self, video: Pixels) -> Tensor:
        """``[F, H, W, 3]`` uint8 -> ``[C, T', H/8, W/8]`` float32."""
        return (((patches(video) - self.mean) @ self.basis) / self.scale).permute(3, 0, 1, 2)

    def decode(self, latents: Tensor) -> Pixels:
        """``[C, T', h, w]`` -> ``[4 (T' - 1) + 1, 8h, 8w, 3]`` uint8."""
        z = latents.float().permute(1, 2, 3, 0) * self.scale
        return _frames(z @ self.basis.T + self.mean)

    def psnr(self, video: Pixels) -> float:
        """Peak signal-to-noise ratio of ``decode(encode(video))`` in dB, over all pixels."""
        error = self.decode(self.encode(video)).astype(np.float64) - video
        return float(20 * math.log10(255) - 10 * math.log10(max(float(np.mean(error**2)), 1e-10)))

    def save(self, path: Path) -> None:
        """Write safetensors, atomically."""
        tensors = {
            "basis": self.basis.contiguous(),
            "mean": self.mean.contiguous(),
            "scale": self.scale.contiguous(),
        }
        # One key: the library writes several in no fixed order, and then the bytes differ.
        about = {"s2v": json.dumps({"format": _FORMAT, "explained": self.explained})}
        write_bytes(path, save(tensors, metadata=about))

    @classmethod
    def load(cls, path: Path) -> LinearAutoencoder:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: no such file, or not an autoencoder.
        """
        if not path.is_file():
            raise ModelError(f"{path}: no autoencoder here; `s2v-model train` fits one")
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("s2v", "{}"))
                if about.get("format") != _FORMAT:
                    raise ModelError(f"{path}: not an autoencoder of this version ({_FORMAT})")
                basis, mean, scale = (file.get_tensor(k) for k in ("basis", "mean", "scale"))
        except SafetensorError as error:
            raise ModelError(f"{path}: broken safetensors file: {error}") from None
        except OSError:  # the library says that it is not there
            raise ModelError(f"{path}: cannot be read; change its permissions") from None
        return cls(basis, mean, scale, float(about["explained"]))


def fit(
    videos: Iterable[Pixels],
    *,
    channels: int = 16,
    normalise: Literal["channel", "global"] = "channel",
) -> LinearAutoencoder:
    """Fit to videos and stills (a still is a video of one frame), in closed form.

    Args:
        videos: each ``[F, H, W, 3]``, seen once and not kept.
        channels: components to keep.
        normalise: ``channel`` gives every channel unit variance over the fitted patches,
            ``global`` gives all of them one common scale.

    Raises:
        ModelError: nothing to fit, or fewer patches than channels.
    """
    size = math.prod(STRIDE) * 3
    total, outer, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
    for video in videos:
        x = patches(video).reshape(-1, size)
        # Products of one clip in float32 (|x| <= 1, a few thousand rows), sums in float64.
        outer += (x.T @ x).double()
        total += x.double().sum(dim=0)
        count += len(x)
    if count <= channels:
        raise ModelError(f"{count} patches cannot fit {channels} channels; give more frames")
    mean = total / count
    covariance = outer / count - mean.outer(mean)
    values, vectors = torch.linalg.eigh(covariance)  # rising
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    kept, basis = values[:channels], vectors[:, :channels]
    # An eigenvector's sign is arbitrary: make the largest entry positive.
    largest = basis.abs().argmax(dim=0)
    basis = basis * basis[largest, torch.arange(channels)].sign()
    scale = kept.sqrt() if normalise == "channel" else kept.mean().sqrt().expand(channels)
    return LinearAutoencoder(
        basis.float().contiguous(),
        mean.float(),
        scale.clamp(min=1e-6).float().contiguous(),
        round(float(kept.sum() / values.sum().clamp(min=1e-12)), 6),
    )
