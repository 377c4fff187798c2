"""Still images: guarded loading, the same bytes for the same pixels, hashes of near copies."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import imagehash
import numpy as np
import pytest
from media_corpus import Corpus
from PIL import Image

from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.images import (
    decode_png_mask,
    encode_jpeg,
    encode_png_mask,
    fit_pad,
    load_image,
    resize,
    resize_short_side,
)
from s2v.datapipe.base.media.phash import hamming, perceptual_hash


def photo(height: int = 120, width: int = 160, seed: int = 0) -> np.ndarray:
    """Smooth random colours, as a photograph has."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that declares many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_images_come_back_as_they_were(tmp_path: Path, kind: str) -> None:
    rgb = photo()
    options = {"lossless": True} if kind == "WEBP" else {}
    path = tmp_path / "image.any"
    path.write_bytes(encoded(Image.fromarray(rgb), kind, **options))
    np.testing.assert_array_equal(load_image(path), rgb)
    np.testing.assert_array_equal(load_image(path.read_bytes()), rgb)


def test_a_phone_photograph_stands_upright() -> None:
    rgb = photo()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    data = encoded(Image.fromarray(rgb), "PNG", exif=exif)
    np.testing.assert_array_equal(load_image(data), np.rot90(rgb, -1))


def test_transparency_lies_on_white() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 3] = 255
    loaded = load_image(encoded(Image.fromarray(rgba), "PNG"))
    assert (loaded[:2] == 0).all()
    assert (loaded[2:] == 255).all()


def test_grey_sixteen_bit_and_cmyk_become_rgb() -> None:
    deep = np.linspace(0, 65535, 100).astype(np.uint16).reshape(10, 10)
    loaded = load_image(encoded(Image.fromarray(deep), "PNG"))
    assert loaded.shape == (10, 10, 3)
    assert int(loaded.max()) == 255
    assert int(loaded.min()) == 0
    cmyk = Image.fromarray(photo()).convert("CMYK")
    assert load_image(encoded(cmyk, "JPEG")).shape == (120, 160, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", MediaErrorKind.EMPTY),
        (b"not an image at all", MediaErrorKind.NOT_MEDIA),
        (bomb(20_000, 20_000), MediaErrorKind.TOO_LARGE),
        (bomb(8_500, 8_500), MediaErrorKind.TOO_LARGE),
        (encoded(Image.fromarray(photo()), "JPEG")[:2000], MediaErrorKind.TRUNCATED),
        (encoded(Image.fromarray(photo()), "GIF"), MediaErrorKind.UNSUPPORTED),
        (encoded(Image.fromarray(photo()), "TIFF"), MediaErrorKind.UNSUPPORTED),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, MediaErrorKind.CORRUPT),
    ],
)
def test_what_is_no_usable_image_is_refused_with_its_reason(
    data: bytes, kind: MediaErrorKind
) -> None:
    with pytest.raises(MediaError) as caught:
        load_image(data)
    assert caught.value.kind is kind
    assert not caught.value.transient


def test_an_animation_is_no_photograph() -> None:
    frames = [Image.fromarray(photo(seed=seed)) for seed in range(2)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match="animated"):
        load_image(data)


def test_a_missing_image_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        load_image(tmp_path / "nothing.jpg")
    assert caught.value.kind is MediaErrorKind.MISSING


def test_jpegs_are_full_colour_and_the_same_every_time() -> None:
    rgb = photo()
    data = encode_jpeg(rgb)
    assert data == encode_jpeg(rgb.copy())
    with Image.open(io.BytesIO(data)) as image:
        assert image.layer[0][1:3] == image.layer[1][1:3] == (1, 1), "4:4:4"
        assert not image.info.get("exif")
    assert np.abs(load_image(data).astype(int) - rgb).mean() < 2
    with pytest.raises(ValueError, match="uint8"):
        encode_jpeg(rgb.astype(np.float32))


def test_masks_survive_their_file() -> None:
    mask = photo()[:, :, 0] > 120
    data = encode_png_mask(mask)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "L"
        assert set(np.unique(np.asarray(image))) == {0, 255}
    np.testing.assert_array_equal(decode_png_mask(data), mask)
    for wrong in (mask.astype(np.uint8), mask[None]):
        with pytest.raises(ValueError, match="bool"):
            encode_png_mask(wrong)
    for image in (Image.fromarray(photo()), Image.fromarray(photo()[:, :, 0])):
        with pytest.raises(MediaError, match="one channel"):
            decode_png_mask(encoded(image, "PNG"))


def test_padding_keeps_the_proportions_and_says_where_the_image_lies() -> None:
    rgb = photo(100, 200)
    canvas, scale, (x, y) = fit_pad(rgb, (64, 64))
    assert canvas.shape == (64, 64, 3)
    assert scale == pytest.approx(0.32)
    assert (x, y) == (0, 16)
    assert (canvas[:16] == 255).all()
    np.testing.assert_array_equal(canvas[16:48], resize(rgb, (64, 32)))


def test_images_shrink_to_the_short_side_and_never_grow() -> None:
    assert resize_short_side(photo(100, 200), 50).shape == (50, 100, 3)
    assert resize_short_side(photo(200, 101), 50).shape == (99, 50, 3)
    assert resize_short_side(photo(20, 30), 50).shape == (20, 30, 3)


def test_the_hash_is_imagehashs() -> None:
    for seed in range(5):
        rgb = photo(90 + seed, 130, seed)
        assert perceptual_hash(rgb) == str(imagehash.phash(Image.fromarray(rgb)))


def test_a_near_copy_has_a_near_hash_and_another_picture_has_not(corpus: Corpus) -> None:
    [(_, frame)] = frames_at(corpus["whole.mp4"], [500_000])
    for original in (frame, photo(360, 640, 9)):
        here = perceptual_hash(original)
        small = resize_short_side(original, 70)
        assert hamming(here, perceptual_hash(load_image(encode_jpeg(original, 40)))) <= 6
        assert hamming(here, perceptual_hash(small)) <= 6
        assert (
            hamming(here, perceptual_hash(np.clip(original * 0.9 + 8, 0, 255).astype(np.uint8)))
            <= 6
        )
        for seed in range(5):
            assert hamming(here, perceptual_hash(photo(seed=seed))) > 16
    assert hamming("0" * 16, "f" * 16) == 64
    with pytest.raises(ValueError, match="16 hex"):
        hamming("00", "ff")
