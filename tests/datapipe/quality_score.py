"""What the filters made of clips with known faults, at the default thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import quality_cases
from quality_cases import FAMILIES, REPORT, TUNING, Base, Fault
from quality_run import Line

from s2v.datapipe.base.media.boxes import area, overlap
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.pair.clips import rules_failed
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
    """

    fault: Fault
    base: Base
    clips: int
    failed: frozenset[str]
    crop: tuple[float, ...] | None

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
    which: str, each: int, folder: Path, note: Callable[[str], None] = print
) -> list[Outcome]:
    """Make and measure clips: all bases clean, ``each`` of them per fault, in turn.

    Args:
        which: ``tuning`` or ``report``.
        each: bases per fault.
        folder: for clips and the run.
        note: told of every fault that is done.
    """
    quality_cases.use(folder / "layers")
    bases = TUNING if which == "tuning" else REPORT
    line = Line(folder / "run")
    found: list[Outcome] = []
    for n, fault in enumerate([quality_cases.clean(), *quality_cases.faults()]):
        step = len(bases) / each
        chosen = (
            bases if n == 0 else [bases[int((k + n / 7) * step) % len(bases)] for k in range(each)]
        )
        for base in dict.fromkeys(chosen):
            found.append(outcome(line, base, fault, folder))
        note(f"{fault.name}: {sum(o.found for o in found if o.fault is fault) if n else ''}")
    return found


def outcome(line: Line, base: Base, fault: Fault, folder: Path) -> Outcome:
    """Make and measure one clip."""
    tables = line.measure([quality_cases.build(base, fault, folder)]).tables
    rows = {name: {row["clip_id"]: row for row in tables[name]} for name in ("overlays", "quality")}
    clips = sorted(tables["clips"], key=lambda c: c["start_us"] - c["end_us"])
    failed = [_failed(clip, tables, rows) for clip in clips]
    crop = rows["overlays"][clips[0]["clip_id"]]["crop"] if clips else None
    return Outcome(
        fault,
        base,
        len(clips),
        frozenset.intersection(*failed) if failed else frozenset(),
        tuple(crop) if crop is not None else None,
    )


def _failed(
    clip: Row, tables: dict[str, list[Row]], rows: dict[str, dict[str, Row]]
) -> frozenset[str]:
    name = clip["clip_id"]
    overlay, quality = rows["overlays"][name], rows["quality"][name]
    return frozenset(rules_failed(clip, tables["probe"][0], overlay, quality, SETTINGS))
