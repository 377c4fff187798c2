"""What stops a unit without being any row's fault, and how a worker reports it.

A worker hands such a fault back as plain data: an exception that crosses Ray comes out
wrapped, with Ray's own hints where the cause should stand.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from s2v.datapipe.base.assets.errors import AssetError
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.roles import WeightsError


class StoreError(RuntimeError):
    """A committed part, or a file that a commit refers to, that is missing or damaged."""


class UnitFailedError(RuntimeError):
    """A unit could not be finished on this machine; says which, why, and the way out."""


class ModelFaultError(RuntimeError):
    """Weights or a server that a role needs; says which role, what is wrong, and the way out."""


#: Faults of the machine, its disks, its models or the run folder. Anything else is our own
#: mistake and travels as it is, with its traceback.
FAULTS = (
    *(OSError, MemoryError, ImportError, AssetError, MediaError, StoreError),
    *(WeightsError, ModelFaultError),
)

#: The report of a unit without a fault; all reports have the same fields, as Arrow wants.
NO_FAILURE = {"kind": "", "message": "", "file": ""}

NO_SPACE = "no space left"
_KEPT = "what was committed is kept"


def failure(error: BaseException, default: Path) -> dict[str, str]:
    """Describe a fault as plain data.

    Args:
        error: one of :data:`FAULTS`.
        default: the file to name when the error names none.

    Returns:
        ``kind`` (an error's name, or :data:`NO_SPACE`), ``message`` and ``file``.
    """
    file = getattr(error, "filename", None) or getattr(error, "path", None) or default
    full = getattr(error, "errno", None) == errno.ENOSPC
    # A decoder's worker has already turned the number into words.
    full = full or (isinstance(error, MediaError) and os.strerror(errno.ENOSPC) in str(error))
    return {
        "kind": NO_SPACE if full else type(error).__name__,
        "message": str(error) or type(error).__name__,
        "file": str(file),
    }


def raise_failure(unit: str, failed: dict[str, Any]) -> None:
    """Raise what :func:`failure` described, on the driver's side; nothing when it is empty.

    Args:
        unit: what was being worked on.
        failed: a record of :func:`failure`, or :data:`NO_FAILURE`.

    Raises:
        UnitFailedError: naming unit, file, cause and the way out.
    """
    kind, message, file = (str(failed[name]) for name in ("kind", "message", "file"))
    if not kind:
        return
    if kind == NO_SPACE:
        cause, way_out = f"no space left for {file}", "free space and run again"
    elif kind == StoreError.__name__:
        cause, way_out = message, "then run again"
    elif kind == ModelFaultError.__name__:
        cause, way_out = message, "mend that and run again"
    elif kind == MemoryError.__name__:
        cause = f"out of memory ({message})"
        way_out = "close other programs or lower engine.actors, and run again"
    else:
        named = message if file in message else f"{file}: {message}"
        cause, way_out = f"{kind}: {named}", "mend that and run again"
    raise UnitFailedError(f"{unit}: {cause}; {way_out}; {_KEPT}")
