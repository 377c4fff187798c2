"""Run the one pinned ffmpeg: the static binary inside the ``imageio-ffmpeg`` package.

Never the system's and never ffprobe, so that the same input gives the same bytes on every
machine. Command lines are built by ffmpeg-python as argument lists; no shell sees them.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.media.container import PROTOCOLS
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind

SANDBOX_MARK: Final = "S2V_MEDIA_SANDBOX"
"""Set in a sandbox worker: ffmpeg then stays in the worker's process group and dies with it."""

MEMORY_BYTES: Final = 4 << 30
OUTPUT_BYTES: Final = 4 << 30
_STDERR_KEPT: Final = 2000

GUARDS: Final = (
    "-nostdin",
    "-hide_banner",
    "-abort_on",
    "empty_output",  # -xerror alone writes an empty file with exit code 0
    "-filter_threads",
    "1",
    "-filter_complex_threads",
    "1",
    "-max_alloc",
    str(1 << 30),
)
"""Global options of every call."""


@functools.cache
def executable() -> str:
    """Path of the ffmpeg that ships inside imageio-ffmpeg.

    ``imageio_ffmpeg.get_ffmpeg_exe()`` is not used: it prefers ``$IMAGEIO_FFMPEG_EXE`` and falls
    back to the system's ffmpeg, and both would change the bytes of every clip.

    Raises:
        FileNotFoundError: the installed imageio-ffmpeg has no binary for this platform.
    """
    folder = Path(str(files("imageio_ffmpeg"))) / "binaries"
    found = sorted(path for path in folder.glob("ffmpeg-*") if os.access(path, os.X_OK))
    if not found:
        raise FileNotFoundError(
            f"no ffmpeg in {folder}; install the platform wheel: pip install imageio-ffmpeg"
        )
    return str(found[0])


@functools.cache
def version() -> str:
    """Version of the pinned ffmpeg, for ``run.json`` and stage fingerprints."""
    out = subprocess.run([executable(), "-version"], capture_output=True, check=True, timeout=60)
    return out.stdout.decode().split()[2]


STRICT: Final = "-xerror"
"""A damaged packet is an error, not a warning. Left out only for packets proved whole."""


def source_arguments(demuxer: str, *, strict: bool = True, **more: Any) -> dict[str, Any]:
    """Input options: forced demuxer, local protocols, one thread, no painting over damage."""
    return {
        "f": demuxer,
        "protocol_whitelist": PROTOCOLS,
        "threads": 1,
        **({"err_detect": "explode"} if strict else {}),
        **more,
    }


@dataclass(frozen=True)
class Finished:
    """A run that succeeded; ``stderr`` holds ffmpeg's log."""

    stderr: str


def run(
    spec: Any,
    path: str | PathLike[str],
    *,
    timeout_s: float,
    stdin: bytes | None = None,
    strict: bool = True,
) -> Finished:
    """Compile an ffmpeg-python output node and run it.

    Args:
        spec: the output stream, ``ffmpeg.input(...).output(...)``.
        path: the stranger's file, for error messages.
        timeout_s: wall clock; the process group is killed after it.
        stdin: bytes for ``pipe:0``.
        strict: stop at the first damaged packet.

    Raises:
        MediaError: ``timeout``, ``crash`` (killed by a signal), ``transient`` (disk full),
            ``too_large`` (out of memory), ``truncated`` or ``corrupt`` by what ffmpeg said.
    """
    options = [*GUARDS, *([STRICT] if strict else []), "-loglevel", "level+warning"]
    arguments = spec.global_args(*options).overwrite_output().compile(cmd=executable())
    return run_arguments(arguments, path, timeout_s=timeout_s, stdin=stdin)


def run_arguments(
    arguments: Sequence[str],
    path: str | PathLike[str],
    *,
    timeout_s: float,
    stdin: bytes | None = None,
) -> Finished:
    """As :func:`run`, with the whole command line."""
    # No proxy variables, no FFREPORT, no locale: nothing outside the arguments steers ffmpeg.
    with subprocess.Popen(
        list(arguments),
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C"},
        process_group=None if os.environ.get(SANDBOX_MARK) else 0,
    ) as process:
        _limit(process.pid, timeout_s)
        try:
            _, stderr = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise MediaError(
                MediaErrorKind.TIMEOUT, path, f"ffmpeg took longer than {timeout_s:.0f} s"
            ) from None
        except BaseException:
            _kill(process)
            raise
    text = stderr.decode(errors="replace")
    if process.returncode != 0:
        raise _failure(path, process.returncode, text)
    return Finished(text)


def _limit(pid: int, timeout_s: float) -> None:
    """Bound a child's memory, CPU and output; set from outside, as a fork hook is not safe."""
    seconds = int(timeout_s) + 5
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.prlimit(pid, resource.RLIMIT_CPU, (seconds, seconds))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (OUTPUT_BYTES, OUTPUT_BYTES))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    except (ProcessLookupError, ValueError, PermissionError):
        # Gone already, or living under tighter limits than these: both are fine.
        return


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        if os.environ.get(SANDBOX_MARK):
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


_SAID: Final = (
    ("No space left on device", MediaErrorKind.TRANSIENT),
    ("Disk quota exceeded", MediaErrorKind.TRANSIENT),
    ("Input/output error", MediaErrorKind.TRANSIENT),
    ("Too many open files", MediaErrorKind.TRANSIENT),
    ("Cannot allocate memory", MediaErrorKind.TOO_LARGE),
    ("moov atom not found", MediaErrorKind.TRUNCATED),
    ("partial file", MediaErrorKind.TRUNCATED),
    ("Error submitting packet to decoder", MediaErrorKind.CORRUPT),
    ("Output file is empty", MediaErrorKind.CORRUPT),
    ("Empty output", MediaErrorKind.CORRUPT),
    ("Nothing was written", MediaErrorKind.CORRUPT),
    ("does not contain any stream", MediaErrorKind.NO_VIDEO),
    ("matches no streams", MediaErrorKind.NO_VIDEO),
    ("Decoder not found", MediaErrorKind.UNSUPPORTED),
)


def _failure(path: str | PathLike[str], code: int, stderr: str) -> MediaError:
    said = [line for line in stderr.splitlines() if "[error]" in line or "[fatal]" in line]
    tail = "; ".join(said)[-_STDERR_KEPT:]
    if code < 0:
        name = signal.Signals(-code).name
        if code in {-signal.SIGXCPU, -signal.SIGALRM}:
            return MediaError(MediaErrorKind.TIMEOUT, path, f"ffmpeg: {name}")
        if code == -signal.SIGXFSZ:
            return MediaError(MediaErrorKind.TOO_LARGE, path, f"output passes {OUTPUT_BYTES} bytes")
        if code in {-signal.SIGKILL, -signal.SIGTERM}:
            return MediaError(MediaErrorKind.TRANSIENT, path, f"ffmpeg was killed ({name})")
        return MediaError(MediaErrorKind.CRASH, path, f"ffmpeg died of {name}: {tail}")
    for words, kind in _SAID:
        if words in tail:
            return MediaError(kind, path, f"ffmpeg: {tail}")
    return MediaError(MediaErrorKind.CORRUPT, path, f"ffmpeg exit {code}: {tail}")
