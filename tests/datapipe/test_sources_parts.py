"""The part of a film that was asked for is measured, and the rest of it is accounted for."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_corpus import Corpus

from s2v.datapipe.base import records
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.probe import ProbeStage
from s2v.datapipe.measure.shots import ShotSettings, ShotStage
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.sources import SourceSpec, list_sources
from s2v.datapipe.sources.parts import BEYOND, OUTSIDE, mark_beyond, outside, part, windows

TIMES = st.none() | st.integers(0, 20_000_000)


@given(TIMES, TIMES, st.integers(1, 10_000_000), st.integers(100_000, 3_000_000))
def test_windows_and_what_lies_outside_tile_the_film(
    start: int | None, end: int | None, duration: int, longest: int
) -> None:
    source = {"video_id": "v", "kind": "video", "from_us": start, "to_us": end}
    if end is not None and end <= (start or 0):
        return  # refused by the manifest
    first, last = part(source, duration)
    cuts = windows(source, duration, longest) if first < last else []
    spans = [
        (s["start_us"], s["end_us"]) for s in outside([source], {"v": {"duration_us": duration}})
    ]
    tiles = sorted([*cuts, *spans])
    assert (tiles[0][0], tiles[-1][1]) == (0, duration)
    assert all(a[1] == b[0] for a, b in pairwise(tiles))
    assert all(b - a <= longest for a, b in cuts)
    wanted = (min(start or 0, duration), duration if end is None else min(end, duration))
    if first < last:
        assert (cuts[0][0], cuts[-1][1]) == wanted


def measure(film: Path, tmp_path: Path, **times: int) -> dict[str, list[Row]]:
    """The rows of one film's part, as the driver puts them together."""
    sources = list_sources([SourceSpec(path=str(film), **times)])  # type: ignore[arg-type]  # of the test's keywords
    [source] = sources
    video = source["video_id"]
    unit = Unit("u", "video_id", [video], {"sources": sources}, tmp_path)
    probed = records.table("probe", ProbeStage().run(unit)["probe"]).to_pylist()
    probe = mark_beyond(probed, sources)
    rows: dict[str, list[Row]] = {"sources": sources, "probe": probe, "clips": [], "spans": []}
    probes = {video: probe[0]}
    usable = [s for s in sources if probes[s["video_id"]].get("reason") is None]
    stage = ShotStage(ShotSettings(min_seconds=0.5, window_seconds=1.5))
    for one in usable:
        for start, end in windows(one, probe[0]["duration_us"], 1_500_000):
            window = {"video_id": video, "start_us": start, "end_us": end}
            unit = Unit(
                "u", "video_id", [video],
                {"sources": sources, "probe": probe, "windows": [window]}, tmp_path,
            )  # fmt: skip
            found = stage.run(unit)
            assert unit.quarantine == []
            rows["clips"] += found["clips"]
            rows["spans"] += found["spans"]
    rows["spans"] += outside(usable, probes)
    return rows


def conserved(rows: dict[str, list[Row]]) -> None:
    """The check that every run makes."""
    clips = {row["clip_id"] for row in rows["clips"]}
    kept = {name: list(found) for name, found in rows.items()}
    kept["quarantine"] = [
        {"id": clip, "stage": "frames", "unit": "u", "error": "x", "message": "not measured here"}
        for clip in sorted(clips)
    ]
    tables = {name: records.table(name, kept.get(name, [])) for name in records.TABLES}
    selected = select(tables, SelectSettings(), [])
    check(tables, selected, SelectSettings())


@pytest.mark.parametrize(
    "times",
    [{}, {"from_us": 500_000}, {"to_us": 1_500_000}, {"from_us": 300_000, "to_us": 1_700_001}],
)
def test_only_the_part_gives_clips_and_every_moment_has_a_reason(
    corpus: Corpus, tmp_path: Path, times: dict[str, int]
) -> None:
    rows = measure(corpus["whole.mp4"], tmp_path, **times)
    duration = rows["probe"][0]["duration_us"]
    start, end = times.get("from_us", 0), times.get("to_us", duration)
    assert rows["clips"]
    for clip in rows["clips"]:
        assert start <= clip["start_us"] < clip["end_us"] <= end
    unused = sum(s["end_us"] - s["start_us"] for s in rows["spans"] if s["reason"] == OUTSIDE)
    assert unused == duration - (end - start)
    conserved(rows)


def test_a_part_that_ends_after_the_film_ends_with_it(corpus: Corpus, tmp_path: Path) -> None:
    rows = measure(corpus["whole.mp4"], tmp_path, from_us=500_000, to_us=900_000_000)
    assert rows["clips"]
    conserved(rows)


def test_a_part_after_the_end_is_dropped_with_its_reason(corpus: Corpus, tmp_path: Path) -> None:
    rows = measure(corpus["whole.mp4"], tmp_path, from_us=900_000_000)
    assert [row["reason"] for row in rows["probe"]] == [BEYOND]
    assert rows["clips"] == rows["spans"] == []
    conserved(rows)
