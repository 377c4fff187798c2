"""The table and the picture of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from s2v.evals import statistics
from s2v.evals.metrics import specs
from s2v.evals.statistics import Interval, PairedTest
from s2v.model.chart import Point, points

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
        references: question -> the reference that it asks about; questions about one are alike.
        swapped: held-out loss with another's reference minus that with the right one, with its
            interval; None for what is no network.
    """

    name: str
    scores: Mapping[str, Mapping[str, float]]
    references: Mapping[str, str]
    swapped: Mapping[str, float] | None

    @classmethod
    def of(
        cls,
        name: str,
        scores: Mapping[str, Mapping[str, float]],
        references: Mapping[str, str],
        heldout: Mapping[str, Any] | None,
    ) -> Row:
        """From what the steps stored."""
        swapped = None if heldout is None else heldout["swapped_minus_right"]
        return cls(name, scores, references, swapped)

    def mean(self, protocol: str) -> Interval | None:
        """Over questions, with an interval over references; None where nothing was scored."""
        found = self.scores.get(protocol, {})
        names = sorted(found)
        if not names:
            return None
        made = statistics.cluster_bootstrap([found[n] for n in names], self._clusters(names))
        return _within(made, *_range(protocol))

    def beyond(self, first: Row, protocol: str) -> PairedTest | None:
        """This minus ``first``, paired by question; None where no question was scored on both."""
        own, other = self.scores.get(protocol, {}), first.scores.get(protocol, {})
        names = sorted(own.keys() & other.keys())
        if not names:
            return None
        test = statistics.paired_difference(
            [other[n] for n in names], [own[n] for n in names], self._clusters(names)
        )
        low, high = _range(protocol)
        span = None if high is None else high - low
        difference = _within(test.difference, None if span is None else -span, span)
        return replace(test, difference=difference)

    def sure(self, first: Row) -> dict[str, float]:
        """Protocol -> p of its difference to ``first``, adjusted over the protocols (Holm)."""
        tests = {protocol: self.beyond(first, protocol) for protocol, _ in COLUMNS}
        return statistics.holm({k: test.p_value for k, test in tests.items() if test is not None})

    def _clusters(self, names: Sequence[str]) -> list[str]:
        return [self.references[name] for name in names]

    def to_json(self, first: Row) -> dict[str, Any]:
        """Means and differences by protocol."""
        out: dict[str, Any] = {"name": self.name, "swapped_minus_right": self.swapped}
        p_values = {} if self is first else self.sure(first)
        for protocol, _ in COLUMNS:
            mean, beyond = self.mean(protocol), self.beyond(first, protocol)
            out[protocol] = {
                "n": 0 if mean is None else mean.n,
                "mean": None if mean is None else _ends(mean),
                "difference": None if beyond is None else _ends(beyond.difference),
                "pairs": 0 if beyond is None else beyond.difference.n,
                "p_holm": p_values.get(protocol),
            }
        return out


@cache
def _range(protocol: str) -> tuple[float, float | None]:
    """Between which a score, and so its mean, must lie."""
    spec = next(spec for spec in specs() if spec.protocol == protocol)
    return spec.low, spec.high


def _within(found: Interval, low: float | None, high: float | None) -> Interval:
    """With few references a bootstrap-t goes beyond what can be."""
    ends = [end if end is None or low is None else max(low, end) for end in (found.low, found.high)]
    ends = [end if end is None or high is None else min(high, end) for end in ends]
    return replace(found, low=ends[0], high=ends[1])


def _ends(found: Interval) -> list[float | None]:
    return [found.estimate, found.low, found.high]


def markdown(rows: Sequence[Row], first: Row) -> str:
    """Means with their differences to the first variant under them."""
    head = ["variant", *(title for _, title in COLUMNS), "swapped minus right", "n"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        asked = len(row.scores.get(COPY, {}))
        p_values = {} if row is first else row.sure(first)
        cells = [row.name]
        for protocol, _ in COLUMNS:
            mean, beyond = row.mean(protocol), row.beyond(first, protocol)
            cell = "" if mean is None else _shown(mean, "", asked)
            if beyond is not None and row is not first:
                bold = "**" if p_values[protocol] < statistics.ALPHA else ""
                cell += f"<br>{bold}{_shown(beyond.difference, '+', asked)}{bold}"
            cells.append(cell)
        s = row.swapped
        cells.append("" if s is None else f"{s['mean']:+.4f} [{s['low']:+.4f}, {s['high']:+.4f}]")
        cells.append(str(asked))
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Mean and 95 % interval by a bootstrap over references; under it the paired difference "
        f"to `{first.name}`, bold where a sign-flip test over references, adjusted over the "
        "columns (Holm), says so at 5 %. Where fewer questions could be scored than `n`, or on "
        "both sides, their number stands in round brackets; one reference has no interval. More "
        "copying is worse, more of the others better; `real clips` are what was held out, not a "
        "network. Small nets measure here (`.light`): their figures compare with none published.",
        "",
    ]
    return "\n".join(lines)


def _shown(found: Interval, sign: str, asked: int) -> str:
    text = f"{found.estimate:{sign}.3f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"
    return text if found.n == asked else f"{text} ({found.n})"


def scatter(rows: Sequence[Row]) -> str:
    """Copying against identity, a cross each."""
    drawn = []
    for row in rows:
        x, y = row.mean(COPY), row.mean(IDENTITY)
        if x is not None and y is not None:
            drawn.append(Point(row.name, x.estimate, y.estimate, _bar(x), _bar(y)))
    return points(
        "Copying against identity", drawn, "pasting of the reference", "likeness of the subject"
    )


def _bar(found: Interval) -> tuple[float, float]:
    """Nothing to draw where the ends cannot be known."""
    if found.low is None or found.high is None:
        return found.estimate, found.estimate
    return found.low, found.high
