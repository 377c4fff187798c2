"""The bytes of a clip are those of its pictures, not of what lay in the machine's memory before.

The fast code of x264's macroblock tree reads memory that nothing wrote, at some widths.
``cpu-independent=1`` keeps it out; the last test shows that this file would notice.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from media_corpus import Corpus
from PIL import Image

from s2v.datapipe.base.media import ffmpeg
from s2v.datapipe.base.media.cut import animate_still, cut_clip, preview_clip

FILLS = (0, 85, 170)  # what glibc lays into memory that it hands out
Encode = Callable[[Path], str]


@pytest.fixture
def digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Path], str]], set[str]]:
    """Digests of one encoding, made by an ffmpeg whose memory is filled in several ways."""
    real = ffmpeg.executable()
    assert b"glibc.malloc.perturb" in Path(real).read_bytes(), "an ffmpeg that heeds it"

    def run(encode: Encode) -> set[str]:
        found = set()
        for fill in FILLS:
            program = tmp_path / f"ffmpeg-{fill}"
            program.write_text(f'#!/bin/sh\nMALLOC_PERTURB_={fill} exec "{real}" "$@"\n')
            program.chmod(0o755)
            with monkeypatch.context() as patched:
                patched.setattr(ffmpeg, "executable", lambda program=program: str(program))
                found.add(encode(tmp_path / "out.mp4"))
        return found

    return run


def clip(film: Path, short_side: int) -> Encode:
    def encode(target: Path) -> str:
        return cut_clip(film, 0, 1_000_000, target, short_side=short_side, crf=16).sha256

    return encode


@pytest.mark.parametrize("short_side", [30, 48, 54, 66, 72, 108])  # widths 40, 64, 72, 88, 96, 144
def test_a_clip_does_not_depend_on_memory(
    corpus: Corpus, digests: Callable[[Encode], set[str]], short_side: int
) -> None:
    assert len(digests(clip(corpus["whole.mp4"], short_side))) == 1


def test_a_preview_does_not_depend_on_memory(
    corpus: Corpus, digests: Callable[[Encode], set[str]]
) -> None:
    film = corpus["whole.mp4"]
    assert len(digests(lambda target: preview_clip(film, target, height=72).sha256)) == 1


def test_an_animated_still_does_not_depend_on_memory(
    digests: Callable[[Encode], set[str]],
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    image = io.BytesIO()
    Image.fromarray(noise).save(image, "PNG")

    def encode(target: Path) -> str:
        return animate_still(
            image.getvalue(), target, seconds=1, kind="zoom_in", short_side=72
        ).sha256

    assert len(digests(encode)) == 1
