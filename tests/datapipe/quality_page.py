"""The tables of docs/quality.md."""

from __future__ import annotations

from collections.abc import Sequence

from quality_cases import FAMILIES
from quality_score import Outcome

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def page(found: Sequence[Outcome]) -> str:
    """Markdown: recall per fault, precision and false alarms per filter."""
    return f"{faults(found)}\n\n{filters(found)}"


def faults(found: Sequence[Outcome]) -> str:
    """One row per fault."""
    lines = [
        "| fault | what was done | filter | clips | dropped or cut | recall |",
        "|---|---|---|---|---|---|",
    ]
    for fault in dict.fromkeys(o.fault for o in found if o.fault.family):
        mine = [o for o in found if o.fault == fault]
        hits = sum(o.found for o in mine)
        cut = sum(o.found and o.crop is not None for o in mine)
        how = f"{hits}" + (f" ({cut} cut, {hits - cut} dropped)" if cut else "")
        lines.append(
            f"| {fault.name} | {fault.about} | {fault.family} | {len(mine)} | {how} "
            f"| {hits / len(mine):.2f} |"
        )
    return "\n".join(lines)


def filters(found: Sequence[Outcome]) -> str:
    """One row per filter: all its faults against all clean clips."""
    clean = [o for o in found if not o.fault.family]
    lines = [
        "| filter | faulty clips | found | clean clips | false alarms | precision | recall |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        mine = [o for o in found if o.fault.family == family]
        hits = sum(o.found for o in mine)
        alarms = [o for o in clean if o.alarm(family)]
        names = ", ".join(o.base.name for o in alarms)
        precision = hits / max(hits + len(alarms), 1)
        lines.append(
            f"| {family} | {len(mine)} | {hits} | {len(clean)} "
            f"| {len(alarms)}{f' ({names})' if names else ''} | {precision:.2f} "
            f"| {hits / max(len(mine), 1):.2f} |"
        )
    return "\n".join(lines)
