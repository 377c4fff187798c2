"""The funnel: how many entered, went on, were dropped by which reason, or put aside."""

from __future__ import annotations

from typing import Any, Final

from s2v.datapipe.base.markup import Content, Markup, element, join, table
from s2v.datapipe.report import bars
from s2v.datapipe.report.figures import Figures
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.wording import RULE_TEXT, number, seconds, share

_SHOWN: Final = 4
_TITLES: Final = {"time": "seconds of video", "pairs": "candidate pairs"}


def render_funnel(found: Figures) -> Markup:
    """Bars with figures and reasons, and the health of the ledger."""
    holds = found["conservation"] == "holds"
    health = element(
        "p",
        element("b", "Conservation holds. " if holds else "Conservation does not hold. "),
        "In every line, entered = kept + dropped + quarantined, and every moment of a source is "
        "in a clip or dropped with a reason."
        if holds
        else found["conservation"],
        class_="health" if holds else "health bad",
        role=None if holds else "alert",
    )
    key = element(
        "p",
        *(
            element("span", element("span", class_=f"swatch {name}"), f" {name}  ")
            for name in ("kept", "dropped", "quarantined")
        ),
        class_="key",
    )
    rows = [_row(row) for row in found["funnel"]]
    columns = ("", "", "entered", "kept", "rate", "quarantined", "why dropped")
    made = table(columns, rows, "Funnel", class_="funnel quiet") if rows else None
    return join(health, key, made)


def _row(row: dict[str, Any]) -> list[Content]:
    def amount(count: int) -> str:
        return seconds(count) if row["unit"] == "us" else number(count)

    dropped = sum(row["dropped"].values())
    label = (
        f"{amount(row['entered'])} entered, {amount(row['kept'])} kept, "
        f"{amount(dropped)} dropped, {amount(row['quarantined'])} quarantined"
    )
    parts = [("kept", row["kept"]), ("dropped", dropped), ("quarantined", row["quarantined"])]
    return [
        _TITLES.get(row["table"], row["table"]),
        bars.bar(parts, row["entered"], label),
        amount(row["entered"]),
        amount(row["kept"]),
        share(row["kept"], row["entered"]),
        amount(row["quarantined"]) if row["quarantined"] else "–",
        _reasons(row, amount),
    ]


def _reasons(row: dict[str, Any], amount: Any) -> Markup | None:
    items = [
        element(
            "li",
            element("b", amount(count)),
            " ",
            RULE_TEXT.get(reason, reason),
            element("span", f" {share(count, row['entered'])}", class_="small"),
        )
        for reason, count in row["dropped"].items()
    ]
    if not items:
        return None
    first, others = items[:_SHOWN], items[_SHOWN:]
    more = (
        element(
            "details",
            element("summary", f"{len(others)} more"),
            element("ul", *others, class_="reasons"),
        )
        if others
        else None
    )
    return join(element("ul", *first, class_="reasons"), more)


def render_rules(run: RunFolder, found: Figures) -> Markup:
    """How many candidate pairs fail each rule; one may fail several."""
    pairs = found["pairs"]
    if not pairs["candidates"]:
        return element("p", "No candidate pairs.")
    alone = {
        rule: sum(row["rules"] == [rule] for row in run.rows("pairs"))
        for rule in pairs["refused_by_rule"]
    }
    rows: list[list[Content]] = [
        [
            RULE_TEXT.get(rule, rule),
            element("code", rule),
            number(count),
            share(count, pairs["candidates"]),
            number(alone[rule]),
        ]
        for rule, count in pairs["refused_by_rule"].items()
    ]
    columns = ("why", "rule", "candidates", "of all", "for this alone")
    note = (
        f"{number(pairs['accepted'])} of {number(pairs['candidates'])} candidate pairs fail no "
        "rule. The others state every rule that they fail, so the counts add up to more."
    )
    return join(element("p", note), table(columns, rows, "Rules that candidate pairs fail"))
