"""What is asked of sampling, and the files of each sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2v.datapipe.base.atomic import write_json
from s2v.model import provenance
from s2v.model.config import Config
from s2v.model.data.reader import Pixels
from s2v.model.data.references import fit_and_pad
from s2v.model.output import write_png, write_sheet


@dataclass(frozen=True)
class Request:
    """One video to make.

    Attributes:
        id: names the files; ``[A-Za-z0-9_-]{1,48}``.
        prompt: what happens.
        references: image files, or RGB arrays ``[h, w, 3]``; none to four.
        seed: of the noise.
        phrases: one per reference, each copied from the prompt, or none at all. References
            of one phrase show one subject. A network without ``subject_ids`` does not look
            at them.
        asked: what the user wrote, where ``prompt`` was rewritten.
    """

    id: str
    prompt: str
    references: tuple[str | Path | Pixels, ...]
    seed: int = 0
    phrases: tuple[str, ...] = ()
    asked: str | None = None


@dataclass(frozen=True)
class SampleResult:
    """Files of one sample; ``provenance`` is the JSON beside the video."""

    id: str
    video: Path
    sheet: Path
    references: tuple[Path, ...]
    provenance: Path


def write(
    request: Request,
    images: Sequence[Pixels],
    video: Pixels,
    *,
    out: Path,
    config: Config,
    facts: dict[str, Any],
) -> SampleResult:
    """Write video, contact sheet, references and provenance.

    Args:
        request: what was asked.
        images: its references.
        video: ``[F, H, W, 3]``.
        out: the folder.
        config: of the run.
        facts: which weights made it.
    """
    d, s = config.data, config.sample
    padded = [fit_and_pad(image, (d.height, d.width), d.pad) for image in images]
    paths = tuple(out / f"{request.id}.ref{k}.png" for k in range(len(images)))
    for path, image in zip(paths, images, strict=True):
        write_png(path, image)
    result = SampleResult(
        request.id, out / f"{request.id}.mp4", out / f"{request.id}.sheet.png", paths,
        out / f"{request.id}.json",
    )  # fmt: skip
    if s.mark:
        video = provenance.mark(video, s.mark)
    record = provenance.write_video(
        result.video, video, d.fps, _record(request, images, paths, config, facts)
    )
    write_sheet(result.sheet, padded, video)
    shape = {"frames": len(video), "fps": d.fps, "height": d.height, "width": d.width}
    digest = hashlib.sha256(result.video.read_bytes()).hexdigest()
    write_json(
        result.provenance,
        {**record, "video": {"file": result.video.name, "sha256": digest, **shape}},
    )
    return result


def _record(
    request: Request,
    images: Sequence[Pixels],
    paths: Sequence[Path],
    config: Config,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """What a video says of how it was made; nothing of the machine or the time."""
    s = config.sample
    return {
        "generator": "s2v-model",
        "id": request.id,
        "prompt": request.prompt,
        "asked": request.asked,
        "phrases": list(request.phrases),
        "negative_prompt": s.negative_prompt,
        "seed": request.seed,
        "references": [
            {"file": path.name, "rgb_sha256": hashlib.sha256(image.tobytes()).hexdigest()}
            for path, image in zip(paths, images, strict=True)
        ],
        "model": facts,
        "sampler": s.model_dump(
            mode="json",
            exclude={"seed", "negative_prompt", "mark", "rewriter_url", "rewriter_timeout_s"},
        ),
        "mark": s.mark or None,
    }
