"""What a manifest says and what a gate stops is applied anew, whatever the run's history."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from s2v.datapipe.assembling import SOURCE_IN_QUARANTINE, apply_gates, mark_duplicates, withdraw
from s2v.datapipe.base import records
from s2v.datapipe.base.exclusions import ExclusionIndex
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.pair.clips import clip_reasons
from s2v.datapipe.pair.settings import SelectSettings


def source(video: str, **more: Any) -> dict[str, Any]:
    return {"video_id": video, "long_video_id": video, "kind": "video", "duplicate_of": None} | more


def clip(name: str, black: float) -> dict[str, Any]:
    times = {"start_us": 0, "end_us": 4_000_000}
    return {"clip_id": name, "video_id": "v", "kind": "video", "black": black} | times


def measured(*clips: tuple[str, float]) -> dict[str, pa.Table]:
    """Clips with their share of black frames; every one captioned."""
    ids = [name for name, _ in clips]
    return {
        "clips": records.table("clips", [clip(name, black) for name, black in clips]),
        "quality": records.table("quality", [{"clip_id": c} for c in ids]),
        "captions": records.table("captions", [{"clip_id": c, "caption": "x"} for c in ids]),
    }


def test_a_gate_tightened_later_gives_what_it_would_have_given_from_the_start() -> None:
    loose = measured(("a", 0.0), ("b", 0.4))
    tight = apply_gates(loose, GateSettings(max_black=0.1))
    assert tight["captions"]["clip_id"].to_pylist() == ["a"]
    assert apply_gates(loose, GateSettings(max_black=None))["captions"].num_rows == 2


def test_a_clip_behind_a_gate_says_which_gate() -> None:
    tables = apply_gates(measured(("a", 0.0), ("b", 0.4)), GateSettings(max_black=0.1))
    facts = {"width": 640, "height": 360, "fps": 24.0, "bits_per_pixel": 0.1}
    tables["probe"] = records.table("probe", [{"video_id": "v", **facts}])
    reasons = clip_reasons(tables, SelectSettings(), ExclusionIndex(()))
    assert reasons["b"] == "clip: not measured: gate black"


def test_correcting_the_long_video_in_a_manifest_reaches_clips_measured_before() -> None:
    tables = {
        "clips": records.table(
            "clips", [{"clip_id": "c", "video_id": "v", "long_video_id": "wrong", "kind": "video"}]
        ),
        "spans": records.table("spans", []),
    }
    found = withdraw(tables, [source("v", long_video_id="right")])
    assert found["clips"]["long_video_id"].to_pylist() == ["right"]


def test_a_copy_is_dropped_only_while_its_original_is_there() -> None:
    probe = {"probe": records.table("probe", [{"video_id": "a"}, {"video_id": "b"}])}
    both = mark_duplicates(probe, [source("a"), source("b", duplicate_of="a")])
    assert both["probe"]["reason"].to_pylist() == [None, "duplicate file: same bytes as a"]
    alone = mark_duplicates(probe, [source("a"), source("b")])
    assert alone["probe"]["reason"].to_pylist() == [None, None]


def test_no_clip_of_a_source_that_broke_off_is_trusted_and_its_time_is_accounted_for() -> None:
    tables = {
        "clips": records.table(
            "clips", [{"clip_id": "v-1", "video_id": "v"}, {"clip_id": "w-1", "video_id": "w"}]
        ),
        "spans": records.table(
            "spans",
            [
                {"video_id": "v", "start_us": 0, "end_us": 5, "clip_id": "v-1"},
                {"video_id": "w", "start_us": 0, "end_us": 5, "clip_id": "w-1"},
            ],
        ),
        "quarantine": records.table("quarantine", [{"id": "v", "stage": "shots"}]),
    }
    found = withdraw(tables, [source("v"), source("w")])
    assert found["clips"]["clip_id"].to_pylist() == ["w-1"]
    spans = {row["video_id"]: row for row in found["spans"].to_pylist()}
    assert (spans["v"]["clip_id"], spans["v"]["reason"]) == (None, SOURCE_IN_QUARANTINE)
    assert spans["w"]["clip_id"] == "w-1"
