"""What a generated video says of itself, inside the file, and whether it is still that video.

The record is JSON in the container's comment: that the video is generated, by which weights,
from which references, with which seed. It carries a digest of the decoded frames, so that a
record moved to another video, or a video that was cut or encoded anew, is found out. It is a
label, not a lock: whoever wants to remove it can.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from s2v.datapipe.base.atomic import replacing
from s2v.model.errors import ModelError
from s2v.model.output import write_mp4

Pixels = npt.NDArray[np.uint8]
FORMAT: Final = "s2v-sample-1"
_MOST_BYTES: Final = 1 << 20  # of a comment that is looked at


@dataclass(frozen=True)
class Verified:
    """A file's record, and the digest of the frames that it has now."""

    record: dict[str, Any]
    frames_sha256: str

    @property
    def intact(self) -> bool:
        """Whether the frames are those the record was written for."""
        return bool(self.record["frames_sha256"] == self.frames_sha256)


def write_video(path: Path, video: Pixels, fps: float, record: dict[str, Any]) -> dict[str, Any]:
    """Encode ``[F, H, W, 3]`` with ``record`` inside; returns the record as written.

    ``format``, ``generated`` and ``frames_sha256`` are added. Written aside and renamed.
    """
    with replacing(path) as tagged:
        plain = tagged.with_name(f"{tagged.name}.plain")
        try:
            write_mp4(plain, video, fps)
            whole = {
                "format": FORMAT, "generated": True, **record,
                "frames_sha256": frames_digest(plain),
            }  # fmt: skip
            _tag(plain, tagged, json.dumps(whole, sort_keys=True, ensure_ascii=False))
        finally:
            plain.unlink(missing_ok=True)
    return whole


def verify(path: Path) -> Verified:
    """Read a video's record and digest its frames.

    Raises:
        ModelError: not a video, no record of ours in it, or frames that are not those it was
            written for.
    """
    if not path.is_file():
        raise ModelError(
            f"{path}: {'not a file' if path.exists() else 'no such file'}; name an mp4"
        )
    try:
        with av.open(str(path)) as file:
            comment = file.metadata.get("comment", "")
    except (OSError, av.FFmpegError) as error:
        raise ModelError(f"{path}: not a video that can be read ({_brief(error)})") from None
    record = _parse(comment)
    if record is None:
        raise ModelError(
            f"{path}: carries no record of s2v-model; it was made by something else, or its "
            "metadata was removed"
        )
    found = Verified(record, frames_digest(path))
    if not found.intact:
        raise ModelError(
            f"{path}: its record is of other frames (now {found.frames_sha256[:12]}, recorded "
            f"{str(record['frames_sha256'])[:12]}); it was cut or encoded anew, or the record moved"
        )
    return found


def frames_digest(path: Path) -> str:
    """SHA-256 over the decoded planes of all frames, in order.

    The planes as the codec defines them, before any conversion to RGB, which may differ
    between machines.

    Raises:
        ModelError: the file does not decode.
    """
    digest = hashlib.sha256()
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise ModelError(f"{path}: has no video stream")
            stream = file.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in file.decode(stream):
                digest.update(f"{frame.format.name} {frame.width} {frame.height}".encode())
                digest.update(np.ascontiguousarray(frame.to_ndarray()).tobytes())
    except (OSError, ValueError, av.FFmpegError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: does not decode ({_brief(error)})") from None
    return digest.hexdigest()


def mark(video: Pixels, text: str) -> Pixels:
    """Draw ``text`` into the lower right corner of every frame ``[F, H, W, 3]``.

    White on a dark plate, its height a sixteenth of the frame's but at least eight pixels.
    """
    _, height, width, _ = video.shape
    size = max(8, height // 16)
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(text)
    plate = Image.new("RGB", (round(right - left) + size, round(bottom - top) + size), (24, 24, 24))
    ImageDraw.Draw(plate).text((size / 2 - left, size / 2 - top), text, (255, 255, 255), font)
    if plate.width > width:
        plate = plate.resize((width, max(1, plate.height * width // plate.width)))
    out = video.copy()
    out[:, height - plate.height :, width - plate.width :] = np.asarray(plate)
    return out


def _tag(source: Path, path: Path, comment: str) -> None:
    """Copy the packets of ``source`` into a file with that comment."""
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(source)) as file, av.open(str(path), "w", "mp4", options=options) as out:
        out.metadata["comment"] = comment
        stream = file.streams.video[0]
        copy = out.add_stream_from_template(stream)
        for packet in file.demux(stream):
            if packet.dts is not None:  # the last, empty one flushes
                packet.stream = copy
                out.mux(packet)


def _parse(comment: str) -> dict[str, Any] | None:
    if len(comment) > _MOST_BYTES:
        return None
    try:
        record = json.loads(comment)
    except ValueError:
        return None
    whole = isinstance(record, dict) and record.get("format") == FORMAT
    return record if whole and isinstance(record.get("frames_sha256"), str) else None


def _brief(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
