"""Tell a video container from its first bytes, before any library sees the file.

The demuxer named here is then forced, so libavformat never probes a stranger's file against
its two hundred formats, of which some (HLS, concat, DASH) read other files or the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Final

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind, from_os_error

_SNIFF_BYTES: Final = 4096
_TS_PACKET: Final = 188
_M2TS_PACKET: Final = 192
_MAGIC: Final = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"\x00\x00\x01\xba", "mpeg"),
)
_IMAGE: Final = "an image; list it as an image, not as a video"
_POINTER: Final = "a playlist, which points elsewhere; give the media file itself"
_REFUSED: Final = (
    (b"GIF8", MediaErrorKind.UNSUPPORTED, "a GIF; give the video it was made from"),
    (b"\xff\xd8\xff", MediaErrorKind.UNSUPPORTED, _IMAGE),
    (b"\x89PNG", MediaErrorKind.UNSUPPORTED, _IMAGE),
    (b"#EXTM3U", MediaErrorKind.UNSUPPORTED, _POINTER),
    (b"ffconcat", MediaErrorKind.UNSUPPORTED, _POINTER),
    (b"\x30\x26\xb2\x75", MediaErrorKind.UNSUPPORTED, "ASF/WMV; re-wrap it as MP4 or Matroska"),
    (b"ID3", MediaErrorKind.NO_VIDEO, "MP3 audio, not a video"),
    (b"\xff\xfb", MediaErrorKind.NO_VIDEO, "MP3 audio, not a video"),
    (b"fLaC", MediaErrorKind.NO_VIDEO, "FLAC audio, not a video"),
    (b"OggS", MediaErrorKind.UNSUPPORTED, "an Ogg file; re-wrap it as MP4 or Matroska"),
)
_MP4_FIRST_BOXES: Final = frozenset(
    {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"uuid"}
)
_MP4_STILL_BRANDS: Final = frozenset({b"avif", b"heic", b"heix", b"mif1"})


def sniff(path: str | PathLike[str]) -> str:
    """Name the libavformat demuxer of a video file from its first bytes.

    Returns:
        ``mov``, ``matroska``, ``avi``, ``flv``, ``mpegts`` or ``mpeg``.

    Raises:
        MediaError: missing, empty, not_media, no_video (an audio format), unsupported.
    """
    try:
        with Path(path).open("rb") as handle:
            head = handle.read(_SNIFF_BYTES)
    except OSError as error:
        raise from_os_error(error, path) from error
    if not head:
        raise MediaError(MediaErrorKind.EMPTY, path, "0 bytes; fetch it again")
    demuxer = _demuxer(head)
    if demuxer is not None:
        return demuxer
    for magic, kind, what in _REFUSED:
        if head.startswith(magic):
            raise MediaError(kind, path, what)
    if head[4:8] == b"ftyp":
        raise MediaError(MediaErrorKind.UNSUPPORTED, path, f"a still image ({head[8:12]!r})")
    if head.startswith(b"RIFF"):
        audio = head[8:12] == b"WAVE"
        kind = MediaErrorKind.NO_VIDEO if audio else MediaErrorKind.UNSUPPORTED
        raise MediaError(kind, path, f"RIFF {head[8:12]!r}, not a video")
    raise MediaError(
        MediaErrorKind.NOT_MEDIA, path, f"no known video container starts with {head[:16]!r}"
    )


def _demuxer(head: bytes) -> str | None:
    if head[4:8] in _MP4_FIRST_BOXES and head[8:12] not in _MP4_STILL_BRANDS:
        return "mov"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "mpegts" if _is_transport_stream(head) else None


def _is_transport_stream(head: bytes) -> bool:
    for packet, first in ((_TS_PACKET, 0), (_M2TS_PACKET, 4)):
        marks = head[first : first + 5 * packet : packet]
        if len(head) >= first + 2 * packet and set(marks) == {0x47}:
            return True
    return False


def _mp4_boxes(path: str | PathLike[str]) -> Iterator[tuple[bytes, int, int]]:
    """Top-level boxes of an MP4 as (type, position, declared length); headers only are read."""
    source = Path(path)
    size = source.stat().st_size
    position = 0
    with source.open("rb") as handle:
        while position + 8 <= size:
            handle.seek(position)
            header = handle.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1 and len(header) == 16:
                length = int.from_bytes(header[8:16], "big")
            elif length == 0:  # "to the end of the file"
                length = size - position
            if length < 8:
                return  # not a box; the demuxer will say more
            yield header[4:8], position, length
            position += length


def missing_mp4_bytes(path: str | PathLike[str]) -> int:
    """Bytes that the top-level boxes of an MP4 declare beyond the end of the file.

    An interrupted download of a fast-start file has them.
    """
    size = Path(path).stat().st_size
    ends = [position + length for _, position, length in _mp4_boxes(path)]
    return max(0, ends[-1] - size) if ends else 0


def lacks_moov(path: str | PathLike[str]) -> bool:
    """Whether no whole moov box stands at the top level (the demuxer has already given up)."""
    size = Path(path).stat().st_size
    return not any(
        kind == b"moov" and position + length <= size for kind, position, length in _mp4_boxes(path)
    )
