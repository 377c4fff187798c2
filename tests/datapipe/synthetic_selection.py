"""Selecting from the synthetic world, and reading what came out."""

from __future__ import annotations

from typing import Any

from synthetic_tables import World

from s2v.datapipe.pair.select import Selection
from s2v.datapipe.pair.settings import DetectionRules, SampleRules, SelectSettings

DEFAULT = SelectSettings(
    detection=DetectionRules(min_side=64),  # the pictures are small
    sample=SampleRules(image_samples=True),
)


def changed(**parts: dict[str, Any]) -> SelectSettings:
    """Default settings with some values replaced."""
    data = DEFAULT.model_dump(by_alias=True)
    for part, values in parts.items():
        data[part] |= values
    return SelectSettings.model_validate(data)


def rows(selection: Selection, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = getattr(selection, table).to_pylist()
    return found


def truth(world: World) -> dict[str, str]:
    """Who a subject is, by its phrase ``the <identity> number <n>``."""
    return {
        r["subject_id"]: r["phrase"].removeprefix("the ").rsplit(" number", 1)[0]
        for r in world.rows["phrases"]
    }


def accepted(selection: Selection) -> set[tuple[str, str]]:
    return {
        (r["target_subject_id"], r["reference_subject_id"])
        for r in rows(selection, "pairs")
        if r["accepted"]
    }
