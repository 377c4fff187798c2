"""Scenarios: what kinds of subjects a sample combines (Phantom, section 3.1, 8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_NAMES = {"person": "human", "creature": "creature", "thing": "thing"}


def scenario(banks: Iterable[str]) -> str:
    """Name the scenario of a sample by the banks of its references.

    ``single-human``, ``multi-human``, ``human-creature``, ``human-thing``,
    ``creature-thing``, ``human-creature-thing`` and so on; ``none`` without references.
    The paper's classes of people, animals and objects; its pets are our creatures.
    """
    count = Counter(banks)
    present = [name for bank, name in _NAMES.items() if count[bank]]
    if not present:
        return "none"
    if len(present) > 1:
        return "-".join(present)
    return f"{'single' if count.total() == 1 else 'multi'}-{present[0]}"
