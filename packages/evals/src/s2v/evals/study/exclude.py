"""Who is left out, by rules stated before the answers are looked at, and a log of all of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from s2v.evals.study.records import GOLD_QUESTION, Key


class Rules(BaseModel):
    """Limits; a rater beyond one of them is left out, and the log says by which."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_gold: float = Field(
        default=0.5, ge=0, le=1, description="share of gold items answered rightly"
    )
    min_repeat: float = Field(
        default=0.34, ge=0, le=1, description="share of repeated answers that are the same"
    )
    min_seconds: float = Field(default=2.0, ge=0, description="median time per item")
    max_same: float = Field(default=0.95, ge=0, le=1, description="share of the commonest answer")
    min_answered: float = Field(
        default=0.5, ge=0, le=1, description="share of the session answered"
    )


@dataclass(frozen=True)
class Entry:
    """One rule applied to one rater.

    Attributes:
        rater: who.
        rule: name of the limit.
        value: what was seen; None where it cannot be known, which excludes nobody.
        limit: of the rule.
        broken: the rater is left out for it.
    """

    rater: str
    rule: str
    value: float | None
    limit: float
    broken: bool


def check(key: Key, rows: Sequence[dict[str, Any]], rules: Rules) -> list[Entry]:
    """Every rule on every rater who sent answers, raters and rules in order."""
    by_rater: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_rater[row["rater"]].append(row)
    log = []
    for rater in sorted(by_rater):
        mine = by_rater[rater]
        asked = len(key.sessions[rater]) * len(key.questions)
        log += [
            _at_least(rater, "min_gold", _gold(mine), rules.min_gold),
            _at_least(rater, "min_repeat", _repeats(mine), rules.min_repeat),
            _at_least(rater, "min_seconds", _pace(mine), rules.min_seconds),
            _at_most(rater, "max_same", _same(mine), rules.max_same),
            _at_least(rater, "min_answered", len(mine) / asked, rules.min_answered),
        ]
    return log


def excluded(log: Sequence[Entry]) -> set[str]:
    """Raters beyond a limit."""
    return {entry.rater for entry in log if entry.broken}


def _at_least(rater: str, rule: str, value: float | None, limit: float) -> Entry:
    return Entry(rater, rule, value, limit, value is not None and value < limit)


def _at_most(rater: str, rule: str, value: float | None, limit: float) -> Entry:
    return Entry(rater, rule, value, limit, value is not None and value > limit)


def _gold(rows: Sequence[dict[str, Any]]) -> float | None:
    gold = [r for r in rows if r["kind"] == "gold" and r["question"] == GOLD_QUESTION]
    if not gold:
        return None
    right = sum(int(r["choice"] == r["expect"]) for r in gold)
    return right / len(gold)


def meaning(row: dict[str, Any]) -> str:
    """What a choice says whatever the sides were: the model preferred, or the mark given."""
    if row["choice"] in ("left", "right"):
        return str(row["models"][row["choice"] == "right"])
    return str(row["choice"])


def _repeats(rows: Sequence[dict[str, Any]]) -> float | None:
    first = {(r["item"], r["question"]): meaning(r) for r in rows}
    again = [
        (first[r["of"], r["question"]], meaning(r))
        for r in rows
        if r["kind"] == "repeat" and (r["of"], r["question"]) in first
    ]
    return sum(a == b for a, b in again) / len(again) if again else None


def _pace(rows: Sequence[dict[str, Any]]) -> float:
    return float(median(float(ms) for ms in {r["item"]: r["ms"] for r in rows}.values())) / 1000


def _same(rows: Sequence[dict[str, Any]]) -> float | None:
    plain = [r["choice"] for r in rows if r["kind"] == "item"]
    return max(plain.count(c) for c in set(plain)) / len(plain) if plain else None
