"""What kinds of samples there are: scenarios by pair type, classes within them, quotas."""

from __future__ import annotations

from typing import Any

from s2v.datapipe.base.markup import Content, Markup, element, join, table
from s2v.datapipe.report import bars
from s2v.datapipe.report.figures import Figures
from s2v.datapipe.report.selected import PAIR_TYPES
from s2v.datapipe.report.wording import number
from s2v.datapipe.roles import CLASSES


def render_kinds(found: Figures) -> Markup:
    """A bar and the figures per scenario, and what quotas asked for."""
    kinds = found["samples"]["by_kind"]
    if not kinds:
        return element("p", "No sample was made.")
    most = max(one["made"] for one in kinds.values())
    types = [name for name in PAIR_TYPES if any(name in one["types"] for one in kinds.values())]
    classes = [name for name in CLASSES if any(name in one["classes"] for one in kinds.values())]
    rows: list[list[Content]] = []
    for name, one in kinds.items():
        left_out = one["made"] - one["kept"]
        label = f"{name}: {number(one['kept'])} samples kept, {number(left_out)} left out"
        parts = [("kept", one["kept"]), ("dropped", left_out)]
        rows.append(
            [
                name.replace("-", " "),
                bars.bar(parts, most, label),
                number(one["kept"]),
                number(left_out) if left_out else "–",
                *(_count(one["types"].get(key)) for key in types),
                *(_count(one["classes"].get(key)) for key in classes),
            ]
        )
    columns = (
        *("scenario", "", "samples", "left out"),
        *(PAIR_TYPES[name] for name in types),
        *(f"with {name.replace('_', ' ')}" for name in classes),
    )
    note = (
        "A sample has one scenario, which follows from the classes of its references, and shows "
        "one class or more."
    )
    return join(
        element("p", note),
        table(columns, rows, "Scenarios and classes of the samples", class_="funnel quiet"),
        _quotas(found["samples"]["quotas"]),
    )


def _count(value: int | None) -> str:
    return number(value) if value else "–"


def _quotas(quotas: list[dict[str, Any]]) -> Markup | None:
    """What was asked for; nothing where nothing was."""
    asked = [row for row in quotas if row["least"] is not None or row["most"] is not None]
    if not asked:
        return None
    rows: list[list[Content]] = [
        [
            " ".join(filter(None, (row["pair_type"], row["of"], row["name"]))),
            number(row["made"]),
            number(row["least"]),
            number(row["most"]),
            number(row["kept"]),
            _count(row["topped_up"]),
            element("b", number(row["missing"])) if row["missing"] else "–",
        ]
        for row in asked
    ]
    columns = ("quota", "made", "at least", "at most", "kept", "added to fill it", "missing")
    return table(columns, rows, "Quotas")
