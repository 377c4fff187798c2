"""Where progress is shown: the terminal's bar or lines, nothing, or what ``jobs/`` passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from s2v.datapipe.base.progress import track

Step = Callable[..., None]  # step(n=1, note="", before=False)
Track = Callable[[str, int], AbstractContextManager[Step]]  # track(title, total)

shown: Track = track
quiet: Track = partial(track, quiet=True)
