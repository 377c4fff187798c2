"""Sampling: Euler along the flow, with one guidance scale for image and one for text.

``v = neg + w_img (pos_i - neg) + w_txt (pos_it - pos_i)`` (paper, section 3.4): *neg* sees the
negative prompt and zero latents in the references' slots, *pos_i* the negative prompt and the
references, *pos_it* both. The clean references are given anew at every step, and what the
network says about them is not used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s2v.datapipe.base.atomic import write_json
from s2v.datapipe.base.ids import VIDEO_ID
from s2v.model import flow
from s2v.model.conditioning import Condition
from s2v.model.config import Config, SampleConfig
from s2v.model.data.features import Encoders
from s2v.model.data.reader import Pixels
from s2v.model.data.references import decode_image, fit_and_pad
from s2v.model.errors import ModelError
from s2v.model.output import write_mp4, write_png, write_sheet
from s2v.model.progress import Track, shown
from s2v.model.rng import normal
from s2v.model.run import Run, device_of

MAX_REFERENCES = 4


@dataclass(frozen=True)
class Request:
    """One video to make.

    Attributes:
        id: names the files; ``[A-Za-z0-9_-]{1,48}``.
        prompt: what happens.
        references: image files, or RGB arrays ``[h, w, 3]``; none to four.
        seed: of the noise.
    """

    id: str
    prompt: str
    references: tuple[str | Path | Pixels, ...]
    seed: int = 0


@dataclass(frozen=True)
class SampleResult:
    """Files of one sample; ``provenance`` is the JSON beside the video."""

    id: str
    video: Path
    sheet: Path
    references: tuple[Path, ...]
    provenance: Path


def sample(
    folder: str | Path,
    requests: Sequence[Request],
    out: str | Path,
    track: Track = shown,
    *,
    config: Config | None = None,
) -> list[SampleResult]:
    """Sample a run's newest checkpoint.

    Args:
        folder: the run.
        requests: what to make.
        out: receives ``<id>.mp4 <id>.sheet.png <id>.ref<k>.png <id>.json``.
        track: where progress is shown.
        config: only its ``sample`` section may differ from the run's own.

    Raises:
        ModelError: no checkpoint, a reference that is no image, more than four of them.
    """
    run, out = Run(folder), Path(out)
    config = config or run.config()
    torch.set_num_threads(config.train.threads)
    for request in requests:
        _check(request)
    encoders = run.encoders(config)
    model, facts = run.network(config.sample.weights, device_of(config))
    if facts["features"] != encoders.fingerprint(config.data):
        raise ModelError(f"{folder}: its checkpoint was trained on features of other encoders")
    results = []
    with track("sample", len(requests) * config.sample.steps) as step:
        for request in requests:
            images = [_image(r) for r in request.references]
            condition = condition_of(request.prompt, images, encoders, config)
            null = encoders.text.encode(config.sample.negative_prompt)
            latents = generate(
                model,
                condition,
                null,
                shape=latent_shape(encoders, config),
                config=config.sample,
                noise_key=(request.seed, "sample"),
                on_step=step,
            )
            video = encoders.video.decode(latents.cpu())
            results.append(_write(request, images, video, out=out, config=config, facts=facts))
    return results


@torch.no_grad()
def generate(
    model: Callable[[Tensor, Tensor, Condition], Tensor],
    condition: Condition,
    null_text: Tensor,
    *,
    shape: tuple[int, int, int, int],
    config: SampleConfig,
    noise_key: tuple[int, str],
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """Latents of one video.

    Args:
        model: the network.
        condition: of one sample (B = 1).
        null_text: ``[Ln, Dt]`` features of the negative prompt.
        shape: ``(C, T, H, W)``.
        config: steps, shift and scales.
        noise_key: seed and purpose of the first noise.
        on_step: called after each step.

    Returns:
        ``[C, T, H, W]``.
    """
    device = (
        next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    )
    told = condition.to(device)
    image_only = told.without_text(null_text.to(device))
    nothing = image_only.without_references()
    seed, purpose = noise_key
    z = normal(shape, seed, purpose)[None].to(device)
    levels = flow.euler_levels(config.steps, config.shift)
    for t, after in pairwise(levels):
        at = torch.full((1,), t, device=device)
        neg, pos_i, pos_it = (
            model(z, at, c)[:, :, : shape[1]] for c in (nothing, image_only, told)
        )
        z = z + (after - t) * guided(neg, pos_i, pos_it, config.image_scale, config.text_scale)
        on_step()
    return z[0]


def guided(
    neg: Tensor, pos_i: Tensor, pos_it: Tensor, image_scale: float, text_scale: float
) -> Tensor:
    """``neg + w_img (pos_i - neg) + w_txt (pos_it - pos_i)``."""
    return neg + image_scale * (pos_i - neg) + text_scale * (pos_it - pos_i)


def latent_shape(encoders: Encoders, config: Config) -> tuple[int, int, int, int]:
    """``(C, T, H/8, W/8)`` of the training window."""
    d = config.data
    return (encoders.video.channels, (d.frames - 1) // 4 + 1, d.height // 8, d.width // 8)


def condition_of(
    prompt: str, images: Sequence[Pixels], encoders: Encoders, config: Config
) -> Condition:
    """Condition of one prompt and its references, B = 1."""
    text = encoders.text.encode(prompt)[None]
    made = [encoders.reference(image, config.data) for image in images]
    K = len(made)
    if made:
        references = torch.stack([z for z, _ in made], dim=1)[None]
        image = torch.stack([i for _, i in made])[None]
    else:
        C, _, H, W = latent_shape(encoders, config)
        references = torch.zeros(1, C, 0, H, W)
        image = torch.zeros(1, 0, encoders.image.tokens, encoders.image.width)
    there = torch.ones(1, K, dtype=torch.bool)
    mask = torch.ones(text.shape[:2], dtype=torch.bool)
    return Condition(text, mask, references, there, image, there.clone())


def _check(request: Request) -> None:
    if not VIDEO_ID.fullmatch(request.id):
        raise ModelError(f"sample id {request.id!r} must match {VIDEO_ID.pattern}")
    if len(request.references) > MAX_REFERENCES:
        raise ModelError(
            f"sample {request.id}: {len(request.references)} references, at most "
            f"{MAX_REFERENCES} are supported"
        )


def _image(reference: str | Path | Pixels) -> Pixels:
    if isinstance(reference, np.ndarray):
        return reference
    try:
        data = Path(reference).read_bytes()
    except OSError as error:
        raise ModelError(f"{reference}: cannot be read ({error.strerror})") from None
    return decode_image(data, str(reference))


def _write(
    request: Request,
    images: Sequence[Pixels],
    video: Pixels,
    *,
    out: Path,
    config: Config,
    facts: dict[str, Any],
) -> SampleResult:
    d, s = config.data, config.sample
    padded = [fit_and_pad(image, (d.height, d.width), d.pad) for image in images]
    paths = tuple(out / f"{request.id}.ref{k}.png" for k in range(len(images)))
    for path, image in zip(paths, images, strict=True):
        write_png(path, image)
    result = SampleResult(
        request.id, out / f"{request.id}.mp4", out / f"{request.id}.sheet.png", paths,
        out / f"{request.id}.json",
    )  # fmt: skip
    write_mp4(result.video, video, d.fps)
    write_sheet(result.sheet, padded, video)
    write_json(
        result.provenance,
        {
            "generated": True,
            "id": request.id,
            "prompt": request.prompt,
            "negative_prompt": s.negative_prompt,
            "seed": request.seed,
            "references": [
                {"file": path.name, "rgb_sha256": hashlib.sha256(image.tobytes()).hexdigest()}
                for path, image in zip(paths, images, strict=True)
            ],
            "model": facts,
            "sampler": {
                "method": "euler", "steps": s.steps, "shift": s.shift,
                "image_scale": s.image_scale, "text_scale": s.text_scale,
            },
            "video": {
                "file": result.video.name, "frames": len(video), "fps": d.fps,
                "height": d.height, "width": d.width,
                "sha256": hashlib.sha256(result.video.read_bytes()).hexdigest(),
            },
        },
    )  # fmt: skip
    return result
