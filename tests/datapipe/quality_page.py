"""The generated parts of docs/quality.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quality_cases import FAMILIES, HEIGHT, WIDTH
from quality_copies import Pair
from quality_run import TEXT, Line
from quality_score import Outcome

_NEAR = "near copies"


def page(found: Sequence[Outcome], pairs: Sequence[Pair], line: Line) -> dict[str, str]:
    """Markdown by the name of its place: ``figures`` and ``cost``."""
    tables = (faults(found), copies(pairs), filters(found, pairs))
    return {"figures": "\n\n".join(tables), "cost": cost(line)}


def put(text: str, parts: Mapping[str, str]) -> str:
    """Put each part between its marks in a page.

    Raises:
        ValueError: the page has no such marks.
    """
    for name, body in parts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"the page needs one {begin} and one {end}")
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{body}\n{end}{rest.split(end)[1]}"
    return text


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


def copies(pairs: Sequence[Pair]) -> str:
    """One row per kind of second file, copies first."""
    lines = [
        "| second file | how it was made | a copy | pairs | called duplicates |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(pair.name for pair in pairs):
        mine = [pair for pair in pairs if pair.name == name]
        called = [pair for pair in mine if pair.found]
        which = "" if mine[0].copy else "".join(f"; {p.first}, {p.second}" for p in called)
        lines.append(
            f"| {name} | {mine[0].about} | {'yes' if mine[0].copy else 'no'} | {len(mine)} "
            f"| {len(called)}{which} |"
        )
    return "\n".join(lines)


def filters(found: Sequence[Outcome], pairs: Sequence[Pair]) -> str:
    """One row per filter: all its faults against all clean clips."""
    lines = [
        "| filter | faulty clips | found | clean clips | false alarms | precision | recall |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        mine = [o for o in found if o.fault.family == family]
        clean = [o for o in found if not o.fault.family and _counts(o, family)]
        alarms = [
            o.base.name + (" on the film" if o.film else "") for o in clean if o.alarm(family)
        ]
        lines.append(_row(family, [o.found for o in mine], len(clean), alarms))
    others = [pair for pair in pairs if not pair.copy]
    wrong = [f"{pair.first}, {pair.second}" for pair in others if pair.found]
    lines.append(_row(_NEAR, [pair.found for pair in pairs if pair.copy], len(others), wrong))
    return "\n".join(lines)


def _counts(clean: Outcome, family: str) -> bool:
    """Whether a clean clip says something of a filter."""
    if clean.film:  # the same clips once more, for what is looked at over a whole film
        return family == "marks"
    return family != "moved photographs" or clean.base.start is not None


def _row(name: str, faulty: Sequence[bool], clean: int, alarms: Sequence[str]) -> str:
    hits = sum(faulty)
    called = hits + len(alarms)
    names = f" ({'; '.join(alarms)})" if 0 < len(alarms) <= 6 else ""
    precision = f"{hits / called:.2f}" if called else "-"
    recall = f"{hits / len(faulty):.2f}" if faulty else "-"
    return (
        f"| {name} | {len(faulty)} | {hits} | {clean} | {len(alarms)}{names} | {precision} "
        f"| {recall} |"
    )


def cost(line: Line) -> str:
    """Processor time per clip of what the clips of this run took."""
    each = 1000 / max(line.clips, 1)
    rows = [
        ("stage `overlay`", "overlay"),
        ("stage `quality`", "quality"),
        ("of both: finding text", TEXT),
    ]
    lines = [f"| CPU ms a clip of three {WIDTH}x{HEIGHT} frames | |", "|---|---|"]
    lines += [f"| {what} | {each * line.seconds[name]:.0f} |" for what, name in rows]
    return "\n".join([*lines, "", f"Mean of the {line.clips} clips of the tables above, one core."])
