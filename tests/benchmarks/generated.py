"""Parts of a page that a command writes: between two markers, everything else by hand."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def replace_generated(page: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- name: begin ... -->`` and ``<!-- name: end -->`` of ``page``.

    Raises:
        ValueError: the page has no such markers.
    """
    pattern = re.compile(rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    old = page.read_text(encoding="utf-8")
    new, found = pattern.subn(lambda match: f"{match[1]}{text}\n{match[2]}", old)
    if found != 1:
        raise ValueError(f"{page}: no markers '<!-- {name}: begin -->' and '<!-- {name}: end -->'")
    page.write_text(new, encoding="utf-8")


def machine() -> str:
    """CPU, cores and load, as conditions of a measurement."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, load {os.getloadavg()[0]:.1f}"
