"""Published figures, shown beside our own as what they are: other people's, by other protocols.

They have no per-sample data, so they get no interval and nothing is ever tested against them.
`PROVENANCE.md` beside the CSV says where each source was read.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal, cast

COLUMNS = ("source", "table", "split", "model", "metric", "value", "unit", "direction", "note")
NOTICE = (
    "Published by others with other models and protocols, not re-run here: shown for orientation, "
    "without intervals, never compared with the figures above."
)

# Which published columns ask the same question as one of our families.
_RELATED: dict[str, tuple[str, ...]] = {
    "face": ("facesim_arc", "facesim_cur", "facesim_glink"),
    "subject": ("clip_i", "dino_i", "clip_i_seg", "dino_i_seg"),
    "text": ("viclip_t",),
    "motion": ("dynamic_degree",),
}


@dataclass(frozen=True)
class PublishedRow:
    """One published figure.

    Attributes:
        source: paper or leaderboard.
        table: within the source.
        split: test set as the source names it.
        model: whose result.
        metric: the source's metric; the same name elsewhere need not be the same protocol.
        value: as printed.
        unit: of the value.
        direction: which way is better.
        note: self-reported, known slips, or empty.
    """

    source: str
    table: str
    split: str
    model: str
    metric: str
    value: float
    unit: str
    direction: Literal["higher", "lower"]
    note: str


def parse(text: str) -> tuple[PublishedRow, ...]:
    """Parse the CSV.

    Raises:
        ValueError: naming the line: other columns, a value that is no finite number, a direction
            other than higher and lower.
    """
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"published rows: columns {reader.fieldnames}, expected {COLUMNS}")
    rows = []
    for record in reader:
        try:
            value = float(record["value"])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"published rows line {reader.line_num}: value {record['value']!r}")
        if record["direction"] not in ("higher", "lower"):
            raise ValueError(
                f"published rows line {reader.line_num}: direction {record['direction']!r}"
            )
        direction = cast(Literal["higher", "lower"], record["direction"])
        texts = {k: record[k] for k in COLUMNS if k not in ("value", "direction")}
        rows.append(PublishedRow(**texts, value=value, direction=direction))
    return tuple(rows)


@lru_cache(maxsize=1)
def published() -> tuple[PublishedRow, ...]:
    """All published rows, in the file's order."""
    return parse(files(__name__).joinpath("published.csv").read_text(encoding="utf-8"))


def related(family: str) -> tuple[PublishedRow, ...]:
    """The paper's own rows that ask what a family of metrics asks.

    Args:
        family: ``face``, ``subject``, ``text`` or ``motion``.

    Returns:
        Rows of Phantom's tables 1 and 2 and, for motion, of SkyReels-A2; the ablation tables
        and leaderboards are left to `published`.
    """
    metrics = _RELATED.get(family, ())
    return tuple(
        row
        for row in published()
        if row.metric in metrics
        and row.table in ("Table 1", "Table 2")
        and row.source.startswith(("Phantom ICCV", "SkyReels"))
    )
