"""What to tell a user of an error: one line that says what can be mended, or nothing.

Errors are known by the name of their class, so that no room is imported to look for them.
"""

from __future__ import annotations

import errno
from typing import Final

#: Where the errors are defined whose message tells a user what to do.
KNOWN: Final = {
    "s2v.datapipe.audit.pairs": ("AuditError",),
    "s2v.datapipe.backends.vlm.serve": ("ServerStartError",),
    "s2v.datapipe.base.assets.errors": ("AssetError",),
    "s2v.datapipe.base.media.errors": ("MediaError",),
    "s2v.datapipe.base.settings": ("SettingsError",),
    "s2v.datapipe.base.shards": ("ShardError",),
    "s2v.datapipe.base.stored": ("StoredTableError",),
    "s2v.datapipe.calibrate.errors": ("CalibrateError",),
    "s2v.datapipe.engine.errors": ("ModelFaultError", "StoreError", "UnitFailedError"),
    "s2v.datapipe.engine.lock": ("RunBusyError",),
    "s2v.datapipe.engine.pools": ("AdmissionError",),
    "s2v.datapipe.interop.errors": ("InteropError",),
    "s2v.datapipe.measuring": ("NothingUsableError", "NotMeasuredError", "QuarantineBudgetError"),
    "s2v.datapipe.pair.conservation": ("ConservationError",),
    "s2v.datapipe.base.exclusions": ("ExclusionError",),
    "s2v.datapipe.pair.unseen": ("TestFacesError",),
    "s2v.datapipe.report.page": ("PageTooLargeError",),
    "s2v.datapipe.roles": ("WeightsError",),
    "s2v.datapipe.sources.errors": ("SourceError",),
    "s2v.datapipe.write.errors": ("WriteError",),
}


def explanation(error: Exception) -> str | None:
    """What to tell the user, or ``None`` for what is our own mistake."""
    if isinstance(error, OSError):
        full = error.errno == errno.ENOSPC
        where = f"for {error.filename}" if error.filename else "on the disk"
        return f"no space left {where}; free some and go on" if full else str(error)
    known = any(kind.__qualname__ in KNOWN.get(kind.__module__, ()) for kind in type(error).__mro__)
    return str(error) if known else _ray_cause(error)


def _ray_cause(error: Exception) -> str | None:
    if not type(error).__module__.startswith("ray."):
        return None
    cause: BaseException = error
    while (inner := getattr(cause, "cause", None) or cause.__cause__) is not None:
        cause = inner
    lines = [line for line in str(cause).splitlines() if line.strip() and not _is_ray_hint(line)]
    # A traceback ends with its cause; a message of several lines begins with it.
    traced = any(line.startswith(("Traceback ", "ray::")) for line in lines)
    shown = lines[-1 if traced else 0] if lines else type(cause).__name__
    return f"a worker failed: {shown.strip()}"


def _is_ray_hint(line: str) -> bool:
    """Whether Ray Data put this line below the cause: advice on its own retries."""
    return "To change retry attempts" in line or "attempts (total backoff" in line
