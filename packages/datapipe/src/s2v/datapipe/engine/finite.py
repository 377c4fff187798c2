"""Scores that are no numbers never enter a table: they would pass every threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from s2v.datapipe.engine.stage import Row, Unit


def refuse_not_finite(
    unit: Unit, stage: str, made: Mapping[str, list[Row]]
) -> dict[str, list[Row]]:
    """Quarantine the ids of which any score is NaN or infinite, and leave out their rows.

    Args:
        unit: whose rows they are.
        stage: what measured them.
        made: rows by table.

    Returns:
        The rows of all other ids.
    """
    bad: dict[str, str] = {}
    for table, rows in made.items():
        for row in rows:
            for column, value in row.items():
                if not _finite(value):
                    bad.setdefault(str(row[unit.key]), f"{table}.{column} is {_shown(value)}")
    if not bad:
        return dict(made)
    for one in sorted(bad):
        unit.refuse(one, stage, "not_finite", f"the stage gave no number: {bad[one]}")
    return {t: [r for r in rows if str(r[unit.key]) not in bad] for t, rows in made.items()}


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if isinstance(value, list | tuple):
        if len(value) > 16 and type(value[0]) is float:  # a vector
            return bool(np.isfinite(np.asarray(value, np.float64)).all())
        return all(map(_finite, value))
    return not isinstance(value, np.floating) or bool(np.isfinite(value))


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, float | np.floating) else "not finite"
