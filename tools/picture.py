"""Draw one triplet of a run: reference, caption with its phrase marked, frames of the clip.

python tools/picture.py runs/demo/shards SAMPLE_ID docs/images/triplet.jpg
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.shards import Sample, ShardIndex

HEIGHT, GAP, TEXT = 240, 12, 64
MARK, INK, PAPER = (255, 214, 102), (20, 20, 20), (255, 255, 255)


def frames(sample: Sample, count: int = 3) -> list[Image.Image]:
    """Evenly spaced frames of the target clip, ``HEIGHT`` pixels high."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(sample.read("mp4"))
        file.flush()
        length = probe(file.name).duration_us
        times = [int(length * (n + 0.5) / count) for n in range(count)]
        return [fitted(rgb) for _, rgb in frames_at(file.name, times)]


def fitted(rgb: np.ndarray) -> Image.Image:
    """Scaled to ``HEIGHT``."""
    image = Image.fromarray(rgb)
    return image.resize((round(image.width * HEIGHT / image.height), HEIGHT))


def draw(sample: Sample) -> Image.Image:
    """The picture."""
    meta = sample.meta()
    tiles = [fitted(load_image(sample.read("ref0.jpg"))), *frames(sample)]
    width = sum(tile.width for tile in tiles) + GAP * (len(tiles) + 2)
    canvas = Image.new("RGB", (width, HEIGHT + TEXT + 2 * GAP), PAPER)
    pen = ImageDraw.Draw(canvas)
    x = GAP
    for n, tile in enumerate(tiles):
        canvas.paste(tile, (x, GAP))
        if n == 0:
            pen.rectangle(
                (x - 4, GAP - 4, x + tile.width + 3, GAP + HEIGHT + 3), outline=MARK, width=4
            )
        x += tile.width + (2 * GAP if n == 0 else GAP)
    font = ImageFont.load_default(size=20)
    start, end = meta.refs[0].span
    y, at = HEIGHT + 2 * GAP, float(GAP)
    parts = (
        (meta.caption[:start], None),
        (meta.caption[start:end], MARK),
        (meta.caption[end:], None),
    )
    for part, fill in parts:
        span = pen.textlength(part, font=font)
        if fill:
            pen.rectangle((at - 3, y - 2, at + span + 3, y + 26), fill=fill)
        pen.text((at, y), part, fill=INK, font=font)
        at += span
    credit = f"{meta.source.credit or ''}, {meta.source.licence or ''}"
    pen.text((GAP, y + 32), credit, fill=(110, 110, 110), font=ImageFont.load_default(size=13))
    return canvas


def main() -> int:
    """Parse and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("sample")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    chosen = [one for one in ShardIndex.open(args.shards) if one.id == args.sample]
    if not chosen:
        print(f"{args.shards}: no sample {args.sample}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(chosen[0]).save(args.out, quality=88)
    return 0


if __name__ == "__main__":
    sys.exit(main())
