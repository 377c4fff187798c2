"""Sampling: from a prompt and up to four references to a video that says what it is."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from s2v.datapipe.base.ids import VIDEO_ID
from s2v.datapipe.base.media.images import MAX_IMAGE_BYTES
from s2v.model import binding, solver
from s2v.model.conditioning import Condition
from s2v.model.config import Config
from s2v.model.config_sample import SampleConfig
from s2v.model.data.features import Encoders
from s2v.model.data.reader import Pixels
from s2v.model.data.references import decode_image
from s2v.model.errors import ModelError
from s2v.model.guidance import Guidance, Network
from s2v.model.progress import Track, shown
from s2v.model.rewrite import rewrite
from s2v.model.rng import normal
from s2v.model.run import Run, device_of
from s2v.model.sample_files import Request, SampleResult, write
from s2v.model.sample_source import Source, of_run, of_weights

MAX_REFERENCES = 4
#: Characters; 512 tokens are some 2500, the rest is cut by the text encoder.
LONGEST_PROMPT = 20_000


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
        ModelError: no checkpoint, a reference that is no image, more than four of them, a
            phrase that is not in its prompt, a rewriter that does not answer.
    """
    config = config or Run(folder).config()
    return _sample(partial(of_run, folder, config, track), config, requests, out, track)


def sample_weights(
    path: str | Path,
    config: Config,
    requests: Sequence[Request],
    out: str | Path,
    track: Track = shown,
    *,
    pass_over: Sequence[str] = (),
) -> list[SampleResult]:
    """Sample a Wan network that no run of ours made, as Phantom-Wan.

    Args:
        path: its weights, in any layout.
        config: encoders, autoencoder, size of the video and sampler; see
            :func:`s2v.model.sample_source.of_weights`.
        requests: what to make.
        out: as :func:`sample`.
        track: where progress is shown.
        pass_over: patterns of tensors that the file holds and the network has not.

    Raises:
        ModelError: as :func:`sample` and :func:`s2v.model.sample_source.of_weights`.
    """
    source = partial(of_weights, path, config, track, pass_over=pass_over)
    return _sample(source, config, requests, out, track)


def _sample(
    source: Callable[[], Source],
    config: Config,
    requests: Sequence[Request],
    out: str | Path,
    track: Track,
) -> list[SampleResult]:
    """Look at everything that a user may have got wrong, and only then load anything."""
    out = Path(out)
    torch.set_num_threads(config.train.threads)
    for request in requests:
        _check(request)
    pictures = [[_image(r) for r in request.references] for request in requests]
    _can_write(out)
    made_with = source()
    model, config, facts = made_with.model, made_with.config, made_with.facts
    questions, null = _encoded(requests, pictures, made_with)
    shape, video_of = latent_shape(made_with.encoders, config), made_with.encoders.video
    # umT5 is 11 GB that nobody needs any more; the network takes their place on the device.
    del made_with
    gc.collect()
    model = model.to(device_of(config))
    results = []
    with track("sample", len(requests) * config.sample.steps) as step:
        for (request, condition), images in zip(questions, pictures, strict=True):
            latents = generate(
                model,
                condition,
                null,
                shape=shape,
                config=config.sample,
                noise_key=(request.seed, "sample"),
                on_step=step,
            )
            video = video_of.decode(latents.cpu())
            results.append(write(request, images, video, out=out, config=config, facts=facts))
    return results


def _encoded(
    requests: Sequence[Request], pictures: Sequence[Sequence[Pixels]], made_with: Source
) -> tuple[list[tuple[Request, Condition]], Tensor]:
    """All that text and image encoders are needed for: every condition, the negative prompt's."""
    encoders, config = made_with.encoders, made_with.config
    questions = []
    for asked, images in zip(requests, pictures, strict=True):
        request = _rewritten(asked, images, config.sample)
        has, reads = encoders.text.length(request.prompt), config.encoders.text_tokens
        if has > reads:
            print(
                f"s2v-model: sample {request.id}: the prompt has {has} tokens, the network reads "
                f"the first {reads}; what comes after them does not count",
                file=sys.stderr,
            )
        condition = condition_of(request.prompt, images, encoders, config, phrases=request.phrases)
        questions.append((request, condition))
    return questions, encoders.text.encode(config.sample.negative_prompt)


@torch.no_grad()
def generate(
    model: Network,
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
        model: the network; see :class:`s2v.model.guidance.Guidance`.
        condition: of one sample (B = 1).
        null_text: ``[Ln, Dt]`` features of the negative prompt.
        shape: ``(C, T, H, W)``.
        config: solver, levels and guidance.
        noise_key: seed and purpose of the first noise.
        on_step: called after each step.

    Returns:
        ``[C, T, H, W]``.
    """
    seed, purpose = noise_key
    z = normal(shape, seed, purpose)[None]
    return denoise(model, condition, null_text, z, config, on_step)[0]


@torch.no_grad()
def denoise(
    model: Network,
    condition: Condition,
    null_text: Tensor,
    noise: Tensor,
    config: SampleConfig,
    on_step: Callable[[], None] = lambda: None,
) -> Tensor:
    """From ``noise [B, C, T, H, W]`` to clean latents of the same shape.

    The released code draws noise for the references' frames as well and overwrites it before
    every call; here the network puts the clean references there, which is the same thing.
    """
    device = noise.device
    if isinstance(model, nn.Module) and (weight := next(model.parameters(), None)) is not None:
        device = weight.device
    velocity = Guidance(model, condition.to(device), null_text.to(device), config)
    levels = solver.sigmas(config.steps, config.shift, config.first_level)
    walk = solver.solver(config.solver, levels)
    z = noise.to(device)
    for t in levels[:-1]:
        z = walk.step(velocity(z, t), z)
        on_step()
    return z


def latent_shape(encoders: Encoders, config: Config) -> tuple[int, int, int, int]:
    """``(C, T, H/8, W/8)`` of the training window."""
    d = config.data
    return (encoders.video.channels, (d.frames - 1) // 4 + 1, d.height // 8, d.width // 8)


def condition_of(
    prompt: str,
    images: Sequence[Pixels],
    encoders: Encoders,
    config: Config,
    *,
    phrases: Sequence[str] = (),
) -> Condition:
    """Condition of one prompt and its references, B = 1.

    Args:
        prompt: the text.
        images: the references.
        encoders: of the run.
        config: of the run.
        phrases: one per reference, or none.

    Raises:
        ModelError: a phrase that is not in the prompt.
    """
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
    condition = Condition(text, mask, references, there, image, there.clone())
    if not phrases:
        return condition
    # A reference without a phrase is a subject of its own.
    subjects = binding.numbered([phrase or i for i, phrase in enumerate(phrases)])
    spans = binding.spans_of(prompt, phrases)
    ids = binding.text_subject(encoders.text, prompt, spans, subjects, text.shape[1])
    return replace(
        condition, text_subject=ids[None], reference_subject=torch.tensor(subjects)[None]
    )


def _check(request: Request) -> None:
    if len(request.prompt) > LONGEST_PROMPT:
        raise ModelError(
            f"sample {request.id}: a prompt of {len(request.prompt)} characters, at most "
            f"{LONGEST_PROMPT} are read; shorten it"
        )
    if any("\ud800" <= c <= "\udfff" for c in request.prompt):
        raise ModelError(f"sample {request.id}: the prompt is not text in UTF-8")
    if not VIDEO_ID.fullmatch(request.id):
        raise ModelError(f"sample id {request.id!r} must match {VIDEO_ID.pattern}")
    if len(request.references) > MAX_REFERENCES:
        raise ModelError(
            f"sample {request.id}: {len(request.references)} references, at most "
            f"{MAX_REFERENCES} are supported; leave {len(request.references) - MAX_REFERENCES} out"
        )
    if request.phrases and len(request.phrases) != len(request.references):
        raise ModelError(
            f"sample {request.id}: {len(request.phrases)} phrases for "
            f"{len(request.references)} references; give one for each, or none"
        )
    binding.spans_of(request.prompt, request.phrases)


def _rewritten(request: Request, images: Sequence[Pixels], config: SampleConfig) -> Request:
    """With the server's prompt and phrases; whoever gave phrases has said enough already."""
    if not config.rewriter_url or not images or request.phrases:
        return request
    said = rewrite(request.prompt, images, config)
    return replace(request, prompt=said.prompt, phrases=said.phrases, asked=request.prompt)


def _image(reference: str | Path | Pixels) -> Pixels:
    if isinstance(reference, np.ndarray):
        return reference
    path = Path(reference)
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{reference}: not a file; give an image")
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ModelError(f"{reference}: more than {MAX_IMAGE_BYTES} bytes; give an image")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{reference}: cannot be read ({error.strerror})") from None
    return decode_image(data, str(reference))


def _can_write(out: Path) -> None:
    """Found out before an hour of sampling, not after."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ModelError(f"--out {out}: cannot be written ({error.strerror})") from None
