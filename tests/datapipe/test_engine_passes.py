"""Several passes over the same units: gates in later pools, quarantine reopened, odd values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from engine_stages import AfterStage, LengthStage, clip, item
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.engine.runner import UnitRunner
from s2v.datapipe.engine.stage import Row, Stage, StageRun, Unit
from s2v.datapipe.engine.store import StageStore


class CaptionStage(Stage):
    """Behind a gate on what the length stage measured."""

    name: ClassVar[str] = "caption"
    reads = ("clips", "quality")
    writes = ("captions",)

    def __init__(self, highest: float = 1.0, poisoned: tuple[str, ...] = ()) -> None:
        self.highest, self.poisoned = highest, poisoned

    def identity(self) -> Mapping[str, Any]:
        return {}

    def gate(self, row: Row) -> str | None:
        return "not measured: gate nsfw" if row["nsfw"] > self.highest else None

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        rows = []
        for row in unit.rows("quality"):
            with unit.guard(row["clip_id"], self.name):
                if row["clip_id"] in self.poisoned:
                    raise ValueError("no answer")
                rows.append({"clip_id": row["clip_id"], "caption": str(row["nsfw"])})
        return {"captions": rows}


def through(
    run: Path, work: Row, pools: Sequence[Sequence[Stage]], *, retry: bool = False
) -> dict[str, Any]:
    """Take the unit through pools of actors as Ray does, without Ray; return the last report."""
    batch = {"item": [json.dumps(work)], "report": ["{}"]}
    before: list[StageRun] = []
    for pool in pools:
        group = [StageRun(stage, "f") for stage in pool]
        batch = UnitRunner(str(run), group, retry, list(before))(batch)
        before += group
    report: dict[str, Any] = json.loads(batch["report"][0])
    assert report["failed"]["kind"] == "", report["failed"]
    return report


def ids(run: Path, stage: str, table: str, key: str = "clip_id") -> list[str]:
    return sorted(row[key] for row in StageStore(run, stage, "f").rows("u").get(table, []))


def test_a_gate_in_a_later_pool_sees_what_earlier_pools_measured(tmp_path: Path) -> None:
    work = item("u", [clip("a"), clip("long-name"), clip("b")])
    through(tmp_path, work, [[LengthStage()], [CaptionStage(highest=0.05)]])
    assert ids(tmp_path, "caption", "captions") == ["a", "b"]
    report = through(tmp_path, work, [[LengthStage()], [CaptionStage(highest=0.5)]])
    assert ids(tmp_path, "caption", "captions") == ["a", "b", "long-name"]
    assert report["stages"]["length"]["measured"] == 0
    assert report["stages"]["caption"]["measured"] == 1


def test_quarantine_reopened_in_the_first_pool_goes_on_through_the_others(tmp_path: Path) -> None:
    work = item("u", [clip("a"), clip("bad")])
    through(tmp_path, work, [[LengthStage(poisoned=("bad",))], [CaptionStage()], [AfterStage()]])
    assert ids(tmp_path, "after", "captions") == ["a"]
    again = through(tmp_path, work, [[LengthStage()], [CaptionStage()], [AfterStage()]], retry=True)
    assert {s: done["measured"] for s, done in again["stages"].items()} == {
        "length": 1, "caption": 1, "after": 1,
    }  # fmt: skip
    assert ids(tmp_path, "after", "captions") == ["a", "bad"]


def test_quarantine_reopened_in_a_later_pool_measures_nothing_else(tmp_path: Path) -> None:
    work = item("u", [clip("a"), clip("bad")])
    through(tmp_path, work, [[LengthStage()], [CaptionStage(poisoned=("bad",)), AfterStage()]])
    again = through(tmp_path, work, [[LengthStage()], [CaptionStage(), AfterStage()]], retry=True)
    assert {s: done["measured"] for s, done in again["stages"].items()} == {
        "length": 0, "caption": 1, "after": 1,
    }  # fmt: skip
    assert (tmp_path / "calls.txt").read_text().split() == ["a", "bad"]


def test_a_unit_that_was_all_in_quarantine_can_be_tried_again(tmp_path: Path) -> None:
    work = item("u", [clip("a"), clip("b")])
    through(tmp_path, work, [[LengthStage()], [CaptionStage(poisoned=("a", "b"))]])
    through(tmp_path, work, [[LengthStage()], [CaptionStage()]], retry=True)
    assert ids(tmp_path, "caption", "captions") == ["a", "b"]
    assert ids(tmp_path, "caption", "quarantine", "id") == []


class OddStage(LengthStage):
    """Scores of every kind that numerical code gives, some of them no numbers."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = values

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        return {"quality": [{"clip_id": i, "niqe": self.values[i]} for i in unit.ids]}


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")]
)
def test_a_score_that_is_no_number_is_quarantined_and_never_passes_a_threshold(
    tmp_path: Path, value: float
) -> None:
    values = {"a": np.float32(0.5), "b": value, "c": None, "d": np.int64(3)}
    work = item("u", [clip(name) for name in values])
    through(tmp_path, work, [[OddStage(values)], [AfterStage()]])
    rows = StageStore(tmp_path, "length", "f").rows("u")
    assert {row["clip_id"]: row["niqe"] for row in rows["quality"]} == {"a": 0.5, "c": None, "d": 3}
    assert [(row["id"], row["error"]) for row in rows["quarantine"]] == [("b", "not_finite")]
    assert "quality.niqe" in rows["quarantine"][0]["message"]
    assert ids(tmp_path, "after", "captions") == ["a", "c", "d"]


def test_vectors_with_a_hole_are_quarantined_too(tmp_path: Path) -> None:
    class Embeds(LengthStage):
        name = "embed"
        writes = ("embeddings",)

        def run(self, unit: Unit) -> dict[str, list[Row]]:
            whole, hole = np.ones(4, np.float32), np.array([1, np.nan, 1, 1], np.float32)
            return {
                "embeddings": [
                    {"clip_id": "a", "subject": whole, "background": whole.tolist()},
                    {"clip_id": "b", "subject": whole, "background": hole},
                    {"clip_id": "c", "subject": hole.tolist(), "background": whole},
                ]
            }

    through(tmp_path, item("u", [clip(name) for name in "abc"]), [[Embeds()]])
    assert ids(tmp_path, "embed", "embeddings") == ["a"]
    assert ids(tmp_path, "embed", "quarantine", "id") == ["b", "c"]


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_happened_before_every_admitted_clip_is_measured_once_or_quarantined(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Gates, poison, pools and --retry-quarantine change from run to run; commits get lost."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda _: None)  # slow, and no power fails here
        _pass_after_pass(data, tmp_path_factory)


def _pass_after_pass(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = tmp_path_factory.mktemp("passes")
    names = ["a", "bb", "ccc", "dddd", "eeeee"]
    work = item("u", [clip(name) for name in names])
    for _ in range(data.draw(st.integers(1, 4))):
        bad = data.draw(st.sets(st.sampled_from(names)), label="poisoned")
        highest = data.draw(st.sampled_from([0.0, 0.02, 0.04, 1.0]), label="gate")
        stages: list[Stage] = [
            LengthStage(poisoned=tuple(bad - {"a"})),
            CaptionStage(highest, tuple(bad - {"bb"})),
            AfterStage(),
        ]
        cut = data.draw(st.integers(1, 3), label="first pool")
        pools = [stages[:cut], stages[cut:]] if cut < 3 else [stages]
        retry = data.draw(st.booleans(), label="retry")
        through(run, work, pools, retry=retry)
        commits = sorted(run.glob("measure/*/*.json"))
        if data.draw(st.booleans(), label="lose a commit"):
            data.draw(st.sampled_from(commits)).unlink()
    through(run, work, [stages])
    length, caption = (StageStore(run, name, "f").rows("u") for name in ("length", "caption"))
    scored = {row["clip_id"]: row["nsfw"] for row in length["quality"]}
    lost = {row["id"] for row in length.get("quarantine", [])}
    assert sorted([*scored, *lost]) == names
    admitted = {name for name, score in scored.items() if score <= highest}
    captioned = [row["clip_id"] for row in caption["captions"]]
    refused = [row["id"] for row in caption.get("quarantine", [])]
    assert len(captioned) == len(set(captioned))
    assert admitted <= {*captioned, *refused}
    assert not set(captioned) & set(refused)
