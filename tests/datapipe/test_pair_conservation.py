"""Nothing gets lost, and where something is, it is said."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s2v.datapipe.base import records
from s2v.datapipe.pair.conservation import ConservationError, check
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import DetectionRules, SelectSettings

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_tables import World, film_world

SETTINGS = SelectSettings(detection=DetectionRules(min_side=64))
Rows = list[dict[str, Any]]


def test_every_row_of_a_sound_run_is_accounted_for() -> None:
    world = film_world()
    world.rows["clips"][0]["motion"] = 0.0
    world.source("broken", seconds=5)
    world.rows["probe"].pop()
    world.rows["quarantine"].append(
        {
            "id": "broken",
            "stage": "probe",
            "unit": "broken",
            "error": "truncated",
            "message": "cut short",
            "retry": "fetch it again",
        }
    )
    tables = world.tables()
    selection = select(tables, SETTINGS)
    report = check(tables, selection, SETTINGS)
    ledgers = {ledger.table: ledger for ledger in report.ledgers}
    assert all(ledger.missing() == 0 for ledger in report.ledgers)
    assert ledgers["sources"].quarantined == 1
    assert ledgers["sources"].entered == len(world.rows["sources"])
    assert ledgers["clips"].dropped == {"clip: duplicate": 1, "clip: static": 1}
    # Time: 310 s of video less broken's, of which every clip's length is kept.
    lengths = [c["end_us"] - c["start_us"] for c in world.rows["clips"]]
    assert ledgers["time"].kept == sum(lengths)
    assert ledgers["time"].entered == sum(p["duration_us"] for p in world.rows["probe"])
    assert ledgers["subjects"].entered == len(world.rows["phrases"])
    assert ledgers["pairs"].kept == sum(r["accepted"] for r in selection.pairs.to_pylist())
    assert report.samples["in"] == ledgers["clips with a sample"].kept
    counted = {
        (row["table"], row["outcome"], row["reason"]): row["count"] for row in report.funnel()
    }
    assert counted["clips", "dropped", "clip: static"] == 1
    assert counted["sources", "quarantined", None] == 1


def lose_span(rows: Rows) -> None:
    rows.pop(1)


def lose_clip(rows: Rows) -> None:
    rows.pop(1)


def double(rows: Rows) -> None:
    rows.append(dict(rows[0]))


def shift(rows: Rows) -> None:
    rows[1]["start_us"] -= 1


def no_reason(rows: Rows) -> None:
    next(row for row in rows if row["clip_id"] is None)["reason"] = None


def stranger(rows: Rows) -> None:
    rows[0]["frame_id"] = "film-99999999-99999999-f00000000"


@pytest.mark.parametrize(
    ("table", "damage", "message"),
    [
        ("spans", lose_span, "is lost"),
        ("spans", shift, "is there twice"),
        ("spans", double, "is there 2 times"),
        ("spans", no_reason, "needs a clip or a reason"),
        ("clips", lose_clip, "is not in table clips"),
        ("probe", lose_clip, "is neither probed nor quarantined"),
        ("frames", double, "is there 2 times"),
        ("faces", stranger, "is not in table frames"),
    ],
)
def test_lost_and_invented_measurements_are_named(
    table: str, damage: Callable[[Rows], None], message: str
) -> None:
    world = film_world()
    tables = world.tables()
    selection = select(tables, SETTINGS)
    rows = tables[table].to_pylist()
    damage(rows)
    with pytest.raises(ConservationError, match=message):
        check(tables | {table: records.table(table, rows)}, selection, SETTINGS)


def drop_first(rows: Rows) -> None:
    rows.pop(0)


def accept_all(rows: Rows) -> None:
    for row in rows:
        row["accepted"] = True


def swap_reference(rows: Rows) -> None:
    cross = next(row for row in rows if row["pair_type"] == "cross")
    cross["references"][0]["detection_id"] = "film-00001000-00007000-f00004000-7"


def split_source(rows: Rows) -> None:
    rows[0]["split"] = "test"


def second_sample(rows: Rows) -> None:
    extra = dict(next(row for row in rows if row["pair_type"] == "in"))
    rows.append(extra | {"sample_id": "0" * 20})


@pytest.mark.parametrize(
    ("view", "damage", "message"),
    [
        ("subjects", drop_first, "was lost"),
        ("boxes", drop_first, "was lost"),
        ("clips", drop_first, "was lost"),
        ("pairs", accept_all, "but fails"),
        ("samples", swap_reference, "fails a rule"),
        ("samples", split_source, "is in train and in test"),
        ("samples", second_sample, "has 2 'in' samples"),
    ],
)
def test_a_selection_that_contradicts_its_tables_is_refused(
    view: str, damage: Callable[[Rows], None], message: str
) -> None:
    tables = film_world().tables()
    selection = select(tables, SETTINGS)
    table = getattr(selection, view)
    rows = table.to_pylist()
    damage(rows)
    damaged = dataclasses.replace(
        selection, **{view: pa.Table.from_pylist(rows, schema=table.schema)}
    )
    with pytest.raises(ConservationError, match=message):
        check(tables, damaged, SETTINGS)


def test_an_empty_run_is_conserved() -> None:
    tables = World().tables()
    selection = select(tables, SETTINGS)
    assert selection.samples.num_rows == 0
    assert check(tables, selection, SETTINGS).samples == {}


def test_a_gate_tighter_than_the_thresholds_is_a_reason_not_a_loss() -> None:
    world = film_world()
    tables = world.tables()
    clip = world.rows["clips"][0]["clip_id"]
    for name in ("captions", "phrases", "detections", "masks", "embeddings"):
        rows = [row for row in tables[name].to_pylist() if row["clip_id"] != clip]
        tables[name] = records.table(name, rows)
    selection = select(tables, SETTINGS)
    reasons = {row["clip_id"]: row["reason"] for row in selection.clips.to_pylist()}
    assert reasons[clip] == "clip: not measured: caption"
    check(tables, selection, SETTINGS)
