"""What must agree inside a sample: crops, masks, boxes, phrases, and the clip that is declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from s2v.datapipe.base.media import masks
from s2v.datapipe.base.media.container import decoded, open_video
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.images import decode_png_mask, load_image
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.shards import Reference, SampleMeta

#: Least share of a mask inside its box; segmenters pass a box by a few pixels.
_INSIDE: Final = 0.5
#: Least share of a box under its mask. Selection asks for more (``select.mask.min_box_fill``); the
#: demo's thinnest has 0.30.
_FILLED: Final = 0.01


def references(meta: SampleMeta, data: Mapping[str, bytes]) -> Iterator[str]:
    """What is wrong with the references of a sample.

    Args:
        meta: its JSON.
        data: its members by suffix, those that could be read.
    """
    for n, ref in enumerate(meta.refs):
        crop, mask = data.get(f"ref{n}.jpg"), data.get(f"ref{n}.mask.png")
        if meta.caption[slice(*ref.span)] != ref.phrase:
            yield f"the span of reference {n} is not its phrase"
        if crop is not None and mask is not None:
            yield from (f"reference {n}: {what}" for what in _reference(ref, crop, mask))


def _reference(ref: Reference, crop: bytes, mask_png: bytes) -> Iterator[str]:
    try:
        image = load_image(crop)
    except MediaError as error:
        yield f"its crop does not decode ({error})"
        return
    try:
        mask = decode_png_mask(mask_png)
    except (MediaError, ValueError) as error:
        yield f"its mask is not one of 0 and 255 ({error})"
        return
    stored = cv2.imdecode(np.frombuffer(mask_png, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or not np.isin(stored, (0, 255)).all():
        yield "its mask is not one of 0 and 255 (some readers take 1 for dark)"
        return
    height, width = image.shape[:2]
    if mask.shape != (height, width):
        yield f"its mask is {mask.shape[1]}x{mask.shape[0]}, its crop {width}x{height}"
        return
    x0, y0, x1, y1 = ref.box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        yield f"its box {list(ref.box)} is not inside its crop of {width}x{height}"
        return
    found = masks.bounding_box(mask)
    if found is None:
        yield "its mask is empty"
        return
    rows, columns = np.nonzero(mask)
    inside = (columns + 1 > x0) & (columns < x1) & (rows + 1 > y0) & (rows < y1)
    if inside.mean() < _INSIDE:
        yield f"its mask spans {list(found)}, not its box {list(ref.box)}"
    elif (filled := len(rows) / ((x1 - x0) * (y1 - y0))) < _FILLED:
        yield f"its mask covers {filled:.2%} of its box: a scrap, not its subject"


def clip(meta: SampleMeta, mp4: bytes, scratch: Path) -> Iterator[str]:
    """Decode the whole clip and hold it to what the JSON says.

    Args:
        meta: the sample's JSON.
        mp4: the clip.
        scratch: a folder of ours; the clip lies there while it is decoded.
    """
    path = scratch / "clip.mp4"
    path.write_bytes(mp4)
    said = meta.video
    try:
        facts = probe(path)
        found = damaged = 0
        with open_video(path) as video:
            for _, frame, bad in decoded(video, facts.frame_us):
                found += 1
                damaged += bad or (frame.width, frame.height) != (said.width, said.height)
    except MediaError as error:
        yield f"its clip does not decode ({error})"
        return
    is_ = (found, facts.declared_frames, facts.width, facts.height)
    due = (said.frames, said.frames, said.width, said.height)
    if is_ != due or damaged:
        yield (
            f"its clip decodes to {found} frames of {facts.width}x{facts.height}, {damaged} of "
            f"them damaged; the JSON says {said.frames} of {said.width}x{said.height}"
        )
    if abs(float(facts.avg_fps) - said.fps) > 1e-5 * said.fps:
        yield f"its clip has {float(facts.avg_fps):.6f} frames per second, the JSON says {said.fps}"
