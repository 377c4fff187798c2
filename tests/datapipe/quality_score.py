"""What the filters made of clips with known faults, at the default thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import quality_cases
from quality_cases import FAMILIES, REPORT, SECONDS, TUNING, Base, Fault
from quality_run import Line

from s2v.datapipe.base.media.boxes import area, overlap
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.pair.clips import rules_failed
from s2v.datapipe.pair.rows import by
from s2v.datapipe.pair.settings import SelectSettings

SETTINGS = SelectSettings()
_WHOLE = 0.94  # of the picture inside borders that a crop has to keep, to be right


@dataclass(frozen=True)
class Outcome:
    """One made clip.

    Attributes:
        fault: what was done to it.
        base: its source.
        clips: clips that the shot detection made of it.
        failed: rules that all of them fail, with the default thresholds.
        crop: of the longest.
        film: it was one of the shots of a film that has the fault all over.
    """

    fault: Fault
    base: Base
    clips: int
    failed: frozenset[str]
    crop: tuple[float, ...] | None
    film: bool = False

    @property
    def found(self) -> bool:
        """Dropped by a rule of the fault's filter, or cut away."""
        if self.clips == 0 or self.failed & FAMILIES[self.fault.family]:
            return True
        if self.fault.content is not None:
            content = self.fault.content
            inside = self.crop is not None and overlap(self.crop, content) == area(self.crop)
            return inside and area(self.crop or ()) >= _WHOLE * area(content)
        boxes = self.fault.covered
        return bool(boxes) and self.crop is not None and not _any_inside(boxes, self.crop)

    def alarm(self, family: str) -> bool:
        """On a clean clip: dropped or cut without a cause."""
        cut = family in {"borders", "text", "marks"} and self.crop is not None
        return cut or bool(self.failed & FAMILIES[family])


def _any_inside(boxes: Iterable[Sequence[float]], crop: Sequence[float]) -> bool:
    return any(overlap(box, crop) > 0.02 * area(box) for box in boxes)


def measure(
    line: Line, which: str, each: int, folder: Path, note: Callable[[str], None] = print
) -> list[Outcome]:
    """Make and measure clips: all bases clean, ``each`` of them per fault, in turn.

    Args:
        line: the stages of a run.
        which: ``tuning`` or ``report``.
        each: bases per fault.
        folder: for clips; :func:`quality_cases.use` first.
        note: told of every fault that is done.
    """
    every = TUNING if which == "tuning" else REPORT
    found: list[Outcome] = []
    for n, fault in enumerate([quality_cases.clean(), *quality_cases.faults()]):
        bases = [base for base in every if base.start is None or not fault.photographs]
        step = len(bases) / each
        chosen = (
            bases if n == 0 else [bases[int((k + n / 7) * step) % len(bases)] for k in range(each)]
        )
        for base in dict.fromkeys(chosen):
            found.append(outcome(line, base, fault, folder))
        note(f"{fault.name}: {sum(o.found for o in found if o.fault is fault) if n else ''}")
    for fault in [quality_cases.clean(), *quality_cases.faults()]:
        if not fault.family or "logo" in fault.name:
            found += on_a_film(line, every, fault, folder)
            note(f"{found[-1].fault.name}: done")
    return found


def on_a_film(line: Line, bases: Sequence[Base], fault: Fault, folder: Path) -> list[Outcome]:
    """Join all bases with one fault to a film; one outcome per base of which a clip is left."""
    name = f"{fault.name}, on a film"
    parts = [quality_cases.build(base, fault, folder) for base in bases]
    path = quality_cases.join(parts, folder / f"{name.replace(', ', '-').replace(' ', '-')}.mp4")
    tables = line.measure([path]).tables
    all_over = replace(fault, name=name, about=f"the same on all of {len(bases)} shots")
    found = []
    for n, base in enumerate(bases):
        middle = (n + 0.5) * SECONDS * 1e6
        clips = [c for c in tables["clips"] if c["start_us"] <= middle < c["end_us"]]
        if clips:
            found.append(_outcome(all_over, base, clips, tables, film=True))
    return found


def outcome(line: Line, base: Base, fault: Fault, folder: Path) -> Outcome:
    """Make and measure one clip."""
    tables = line.measure([quality_cases.build(base, fault, folder)]).tables
    return _outcome(fault, base, tables["clips"], tables)


def _outcome(
    fault: Fault,
    base: Base,
    clips: Sequence[Row],
    tables: dict[str, list[Row]],
    *,
    film: bool = False,
) -> Outcome:
    rows = {name: by(tables[name], "clip_id") for name in ("overlays", "quality")}
    clips = sorted(clips, key=lambda c: c["start_us"] - c["end_us"])
    failed = [_failed(clip, tables, rows) for clip in clips]
    crop = rows["overlays"][clips[0]["clip_id"]]["crop"] if clips else None
    return Outcome(
        fault,
        base,
        len(clips),
        frozenset.intersection(*failed) if failed else frozenset(),
        tuple(crop) if crop is not None else None,
        film,
    )


def _failed(
    clip: Row, tables: dict[str, list[Row]], rows: dict[str, dict[str, Row]]
) -> frozenset[str]:
    name = clip["clip_id"]
    overlay, quality = rows["overlays"][name], rows["quality"][name]
    return frozenset(rules_failed(clip, tables["probe"][0], overlay, quality, SETTINGS))
