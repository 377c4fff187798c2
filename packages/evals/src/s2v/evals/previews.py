"""Small pictures of what was scored, so that a report needs neither the videos nor their place.

One strip of five frames per video and one picture per reference, named by content: `s2v-eval run`
leaves them beside the scores, and a report over several runs is made from run folders alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from s2v.datapipe.base.atomic import write_bytes, write_json
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.images import encode_jpeg, resize
from s2v.evals import media
from s2v.evals.encoders import Image
from s2v.evals.errors import EvalError
from s2v.evals.frames import linspace_inclusive
from s2v.evals.inspection import Inspected
from s2v.evals.manifest import Manifest

FOLDER = "previews"
INDEX = "index.json"
SCHEMA = "s2v-eval-previews/1"

FRAMES = 5
HEIGHT = 108
_GAP = 3
_REFERENCE = (240, 200)
_QUALITY = 80

Index = dict[str, dict[str, list[str]]]
"""sample id -> ``{"video": [file], "refs": [file, ...]}``, files of the previews' folder."""


def make(
    manifest: Manifest,
    items: Sequence[Inspected],
    run: Path,
    *,
    step: Callable[..., None] | None = None,
) -> Path:
    """Write the previews of all usable samples of a run; those already there are kept.

    Args:
        manifest: where relative paths start.
        items: usable samples.
        run: folder of the run.
        step: called once per sample.

    Returns:
        The folder, with ``index.json``. A video that cannot be decoded has no strip.

    Raises:
        OSError: the pictures cannot be written.
    """
    folder = run / FOLDER
    index: Index = {}
    for item in items:
        references = []
        for (sha256, _), ref in zip(item.references, item.sample.refs, strict=True):
            name = f"r-{sha256[:24]}.jpg"
            if not (folder / name).is_file():
                picture = _fitted(media.read_image(manifest.resolve(ref.path)), *_REFERENCE)
                write_bytes(folder / name, encode_jpeg(picture, _QUALITY))
            references.append(name)
        name = f"v-{item.video_sha256[:24]}.jpg"
        made = (folder / name).is_file() or _write_strip(item, folder / name)
        index[item.sample.sample_id] = {"video": [name] if made else [], "refs": references}
        if step is not None:
            step(note=item.sample.sample_id)
    write_json(folder / INDEX, {"schema": SCHEMA, "samples": index})
    return folder


def load(run: Path) -> Index:
    """The index of a run's previews; empty when it has none.

    Raises:
        EvalError: the index is damaged.
    """
    path = run / FOLDER / INDEX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}")
        return {
            str(sample): {
                kind: [_plain(name) for name in names[kind]] for kind in ("video", "refs")
            }
            for sample, names in content["samples"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvalError(f"{path}: damaged ({error}); run the evaluation again") from error


def _plain(name: object) -> str:
    """A file name, and nothing that leads out of the folder."""
    text = str(name)
    if Path(text).name != text or text in ("", ".", ".."):
        raise ValueError(f"file name {text!r}")
    return text


def _write_strip(item: Inspected, path: Path) -> bool:
    indices = linspace_inclusive(len(item.times_us), FRAMES)
    try:
        frames = media.read_frames(item.video, item.times_us, indices)
    except MediaError as error:
        if error.transient:
            raise
        return False  # it failed when it was scored, and failures.csv says so
    write_bytes(path, encode_jpeg(strip([frames[i] for i in indices]), _QUALITY))
    return True


def strip(frames: Sequence[Image], height: int = HEIGHT) -> Image:
    """Frames side by side.

    Args:
        frames: RGB uint8 (H, W, 3) of one size.
        height: of the strip.

    Returns:
        RGB uint8 (height, W', 3), a white gap between frames.
    """
    width = max(1, round(frames[0].shape[1] * height / frames[0].shape[0]))
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    parts: list[Image] = []
    for frame in frames:
        parts += [np.asarray(resize(frame, (width, height)), np.uint8), gap]
    return np.ascontiguousarray(np.concatenate(parts[:-1], axis=1))


def _fitted(image: Image, width: int, height: int) -> Image:
    scale = min(1.0, width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(resize(image, size), np.uint8)
