"""The table and the picture of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2v.model.chart import Point, points
from s2v.model.heldout import Difference, paired

#: Protocol, heading; copying first, then identity, then text.
COLUMNS = (
    ("copy.light.paste", "pasting"),
    ("copy.light.pose", "pose copied"),
    ("copy.light.background", "background copied"),
    ("subjectsim.light.mobilenet.seg", "subject"),
    ("facesim.light.dlib", "face"),
    ("text.light.conse", "text"),
)
COPY, IDENTITY = "copy.light.paste", "subjectsim.light.mobilenet.seg"


@dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        name: of the variant.
        scores: protocol -> question -> score.
        swapped: held-out loss with another's reference minus that with the right one, with its
            interval; None for what is no network.
    """

    name: str
    scores: Mapping[str, Mapping[str, float]]
    swapped: Mapping[str, float] | None

    @classmethod
    def of(
        cls, name: str, scores: Mapping[str, Mapping[str, float]], heldout: Mapping[str, Any] | None
    ) -> Row:
        """From what the steps stored."""
        return cls(name, scores, None if heldout is None else heldout["swapped_minus_right"])

    def mean(self, protocol: str) -> Difference | None:
        """Over questions, with an interval over clips."""
        found = self.scores.get(protocol, {})
        return _interval(found, found)

    def beyond(self, first: Row, protocol: str) -> Difference | None:
        """This minus ``first``, paired by question."""
        own, other = self.scores.get(protocol, {}), first.scores.get(protocol, {})
        shared = own.keys() & other.keys()
        return _interval(shared, {q: own[q] - other[q] for q in shared})

    def to_json(self, first: Row) -> dict[str, Any]:
        """Means and differences by protocol."""
        out: dict[str, Any] = {"name": self.name, "swapped_minus_right": self.swapped}
        for protocol, _ in COLUMNS:
            mean, beyond = self.mean(protocol), self.beyond(first, protocol)
            out[protocol] = {
                "n": len(self.scores.get(protocol, {})),
                "mean": None if mean is None else [mean.mean, mean.low, mean.high],
                "difference": None if beyond is None else [beyond.mean, beyond.low, beyond.high],
            }
        return out


def _interval(questions: Any, values: Mapping[str, float]) -> Difference | None:
    names = sorted(questions)
    if not names:
        return None
    clips = [name.partition("-s")[0] for name in names]
    return paired(np.array([values[name] for name in names]), clips, 0)


def markdown(rows: Sequence[Row], first: Row) -> str:
    """Means with their differences to the first variant under them."""
    head = ["variant", *(title for _, title in COLUMNS), "swapped minus right", "n"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row.name]
        for protocol, _ in COLUMNS:
            mean, beyond = row.mean(protocol), row.beyond(first, protocol)
            cell = "" if mean is None else _shown(mean)
            if beyond is not None and row is not first:
                cell += f"<br>{'**' if beyond.low * beyond.high > 0 else ''}{beyond.mean:+.3f}"
                cell += f" [{beyond.low:+.3f}, {beyond.high:+.3f}]"
                cell += "**" if beyond.low * beyond.high > 0 else ""
            cells.append(cell)
        s = row.swapped
        cells.append("" if s is None else f"{s['mean']:+.4f} [{s['low']:+.4f}, {s['high']:+.4f}]")
        cells.append(str(len(row.scores.get(COPY, {}))))
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Mean and 95 % interval by a bootstrap over clips; under it the paired difference to "
        f"`{first.name}`, bold where its interval leaves zero out. More copying is worse, more of "
        "the others better; `real clips` are what was held out, not a network. Small nets measure "
        "here (`.light`): their figures compare with none published.",
        "",
    ]
    return "\n".join(lines)


def _shown(found: Difference) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def scatter(rows: Sequence[Row]) -> str:
    """Copying against identity, a cross each."""
    drawn = []
    for row in rows:
        x, y = row.mean(COPY), row.mean(IDENTITY)
        if x is not None and y is not None:
            drawn.append(Point(row.name, x.mean, y.mean, (x.low, x.high), (y.low, y.high)))
    return points(
        "Copying against identity", drawn, "pasting of the reference", "likeness of the subject"
    )
