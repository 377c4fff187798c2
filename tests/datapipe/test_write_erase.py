"""After a takedown nothing of the source is left in the run, and nothing else is lost."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe.base import ids, records
from s2v.datapipe.base.exclusions import Exclusion
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.engine.units import slices
from s2v.datapipe.pair.settings import PairRules
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.takedown import copies_of_gone, made_from, settle, take_down
from s2v.datapipe.write.tombstones import (
    FILE,
    GoneClip,
    GoneSource,
    Tombstones,
    copies,
    gone_sources,
    read_tombstones,
)

GONE, KEPT = "holiday", ("kitchen", "harbour")
UNIT_CLIPS = 6
Row = dict[str, Any]


def source(video: str, **more: Any) -> Row:
    empty = dict.fromkeys(records.TABLES["sources"].names)
    own = {"video_id": video, "long_video_id": video, "kind": "video", "path": f"/{video}.mp4"}
    return {**empty, **own, "sha256": ids.stable_hash([video], 64), **more}


def made_of(row: Row) -> str:
    return str(row["sha256"])


def clip_ids(video: str) -> list[str]:
    return [ids.clip_id(video, n * 1_000_000, (n + 1) * 1_000_000) for n in range(9)]


def picture(clip: str) -> bytes:
    return f"<picture of {clip}>".encode() * 7


def tar_of(path: Path, clips: list[str]) -> dict[str, tuple[int, int]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    places = {}
    with tarfile.open(path, "w") as tar:
        for clip in clips:
            info = tarfile.TarInfo(f"{clip}-f00000000.jpg")
            info.size = len(picture(clip))
            places[clip] = (tar.offset + 512, info.size)
            tar.addfile(info, io.BytesIO(picture(clip)))
    return places


def frame(clip: str, tar: str, place: tuple[int, int], phash: str) -> Row:
    return {
        "frame_id": f"{clip}-f00000000", "clip_id": clip, "position": 0.5, "pts_us": 0, "blur": 9.0,
        "tar": tar, "offset": place[0], "size": place[1], "phash": phash, "phash_mirror": "f" * 16,
    }  # fmt: skip


def measured_run(run: Path) -> dict[str, list[str]]:
    """Three sources whose clips share units; everything a run keeps of them. Units by name."""
    videos = sorted((GONE, *KEPT))
    owner = {clip: video for video in videos for clip in clip_ids(video)}
    for video in videos:
        clips = [{"clip_id": c, "video_id": video, "kind": "video"} for c in clip_ids(video)]
        name = f"{video}-12345678-w000"
        places = tar_of(run / "stills" / f"{name}-abc.tar", clip_ids(video))
        stills = [
            {"video_id": video, "clip_id": c, "tar": f"stills/{name}-abc.tar",
             "offset": places[c][0], "size": places[c][1]}
            for c in clip_ids(video)
        ]  # fmt: skip
        shots = StageStore(run, "shots", "0001")
        shots.commit(name, "video_id", [video], {"clips": clips, "stills": stills}, 1.0)
        (run / "clips" / "0123").mkdir(parents=True, exist_ok=True)
        for clip in clip_ids(video)[:2]:
            (run / "clips" / "0123" / f"{clip}.mp4").write_bytes(picture(clip))
    content = {clip: made_of(source(video)) for clip, video in owner.items()}
    units = dict(slices(content, UNIT_CLIPS))
    for name, members in units.items():
        tar = f"frames/{name}-def.tar"
        places = tar_of(run / tar, members)
        rows = [frame(c, tar, places[c], ids.stable_hash([c], 16)) for c in members]
        StageStore(run, "frames", "0002").commit(name, "clip_id", members, {"frames": rows}, 1.0)
        captions = [{"clip_id": c, "caption": f"It is said of {c}"} for c in members]
        bad = [{"id": members[0], "stage": "caption", "unit": name, "error": "e"}]
        store = StageStore(run, "caption", "0003")
        store.commit(name, "clip_id", members, {"captions": captions[1:], "quarantine": bad}, 1.0)
    pair = {
        "verdict_id": "v1",
        "target_subject_id": f"{clip_ids(GONE)[0]}-s0",
        "reference_subject_id": f"{clip_ids(KEPT[0])[0]}-s0",
        "note": f"said of {clip_ids(GONE)[0]}",
    }
    of_others = f"{clip_ids(KEPT[1])[0]}-s0"
    other = {**pair, "verdict_id": "v2", "target_subject_id": of_others, "note": "said"}
    answers = StageStore(run, "verify", "0004")
    answers.commit("v1-00", "verdict_id", ["v1", "v2"], {"verdicts": [pair, other]}, 1.0)
    tar_of(run / "frames" / "killed-unit.tar", clip_ids(GONE)[:1])  # of a unit without a commit
    (run / "tables").mkdir()
    pq.write_table(
        records.table("sources", [source(v) for v in videos]), run / "tables" / "sources.parquet"
    )
    (run / "select").mkdir()
    (run / "select" / "clips.parquet").write_bytes(b"steps")
    return units


def listed(run: Path) -> list[Row]:
    return [source(video) for video in (GONE, *KEPT)]


def takedown(run: Path, *lines: tuple[str, str]) -> Tombstones:
    path = run.with_name("list.jsonl")
    told = [Exclusion(key_type=t, key=k, reason="r", by="b", when="w") for t, k in lines]  # type: ignore[arg-type]
    path.write_text("".join(one.model_dump_json() + "\n" for one in told))
    take_down(run, [path])
    return settle(run, listed(run), made_of)


def contents(run: Path) -> dict[str, Any]:
    """What every file says; a Parquet file by its rows."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and not (path.parent == run and name.endswith(".tmp")):
            rows = path.suffix == ".parquet" and path.parent.name != "select"
            found[name] = (
                pq.read_table(path, partitioning=None).to_pylist() if rows else path.read_bytes()
            )
    return found


def test_no_picture_row_or_word_of_it_is_left_and_the_others_are_whole(tmp_path: Path) -> None:
    run = tmp_path / "run"
    units = measured_run(run)
    stones = takedown(run, ("video_id", GONE))
    assert stones.erased
    assert sorted(stones.clips) == clip_ids(GONE)
    for name, said in contents(run).items():
        if name in (FILE, "exclusions.jsonl"):
            assert b"picture of" not in said
            continue
        raw = said if isinstance(said, bytes) else repr(said).encode()
        for clip in clip_ids(GONE):
            assert picture(clip) not in raw, name
            assert f"said of {clip}".encode() not in raw, name
        if isinstance(said, list):
            assert not any(GONE in str(row.get(k)) for row in said for k in ("video_id", "clip_id"))
    # What a later start looks for is there under the name that it looks for.
    content = {c: made_of(source(v)) for v in KEPT for c in clip_ids(v)}
    left = slices(content, UNIT_CLIPS, stones.clips.keys())
    assert sorted(c for _, members in left for c in members) == sorted(content)
    mixed = [m for m in units.values() if len({c.rsplit("-", 2)[0] for c in m}) > 1]
    assert any(GONE in member for members in mixed for member in members)  # or nothing was shown
    for stage, fingerprint in (("frames", "0002"), ("caption", "0003")):
        store = StageStore(run, stage, fingerprint)
        assert sorted(store.listing()) == sorted(name for name, _ in left)
        for name, members in left:
            assert store.covered(name) == set(members)
            rows = store.rows(name)
            assert {r["unit"] for r in rows.get("quarantine", [])} <= {name}
            for row in rows.get("frames", []):
                with (run / row["tar"]).open("rb") as handle:
                    handle.seek(row["offset"])
                    assert handle.read(row["size"]) == picture(row["clip_id"])
    verdicts = StageStore(run, "verify", "0004").rows("v1-00")["verdicts"]
    assert [row["verdict_id"] for row in verdicts] == ["v2"]
    assert not (run / "frames" / "killed-unit.tar").exists()


class KilledError(BaseException):
    """The process is gone."""


def test_killed_at_any_action_it_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    measured_run(whole)
    takedown(whole, ("video_id", GONE))
    wanted = contents(whole)
    real = {name: getattr(os, name) for name in ("replace", "unlink")}
    actions = 0

    def at(limit: int) -> None:
        nonlocal actions
        actions = 0

        def acts(name: str) -> Any:
            def act(*args: Any, **more: Any) -> Any:
                nonlocal actions
                actions += 1
                if actions > limit:
                    raise KilledError
                return real[name](*args, **more)

            return act

        for name in real:
            monkeypatch.setattr(os, name, acts(name))

    limit, ended = 2, False
    while not ended:
        run = tmp_path / f"killed-{limit}" / "run"
        run.parent.mkdir()
        measured_run(run)
        at(limit)
        try:
            takedown(run, ("video_id", GONE))
            ended = True
        except KilledError:
            pass
        monkeypatch.undo()
        settle(run, listed(run), made_of)
        assert contents(run) == wanted, f"killed after {limit} actions"
        limit += 7
    assert limit > 20  # it was killed in the middle, too


def test_a_second_time_nothing_is_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    measured_run(run)
    takedown(run, ("video_id", GONE))
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    settle(run, listed(run), made_of)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before


def test_units_of_an_older_state_of_the_files_go_whole_rather_than_under_a_wrong_name(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    measured_run(run)
    changed = [source(v, **({"sha256": "0" * 64} if v == KEPT[0] else {})) for v in (GONE, *KEPT)]
    path = tmp_path / "list.jsonl"
    line = Exclusion(key_type="video_id", key=GONE, reason="r", by="b", when="w")
    path.write_text(line.model_dump_json() + "\n")
    take_down(run, [path])
    stones = settle(run, changed, made_of)
    content = {c: made_of(row) for row in changed[1:] for c in clip_ids(row["video_id"])}
    today = {name for name, _ in slices(content, UNIT_CLIPS, stones.clips.keys())}
    for name in StageStore(run, "frames", "0002").listing():
        members = StageStore(run, "frames", "0002").commits(name)[0].ids
        assert name in today or not any(GONE in m for m in members)


def test_the_same_file_under_another_name_goes_too_and_another_part_of_it_stays() -> None:
    rows = [
        source("a", sha256="1" * 64),
        source("same", sha256="1" * 64),
        source("part", sha256="1" * 64, from_us=5, to_us=9),
        source("b", sha256="2" * 64, long_video_id="film"),
        source("c", sha256="3" * 64, long_video_id="film"),
    ]

    def gone(key_type: str, key: str, known: Tombstones = Tombstones()) -> set[str]:  # noqa: B008
        one = Exclusion(key_type=key_type, key=key, reason="", by="", when="")  # type: ignore[arg-type]
        return gone_sources(rows, [one], known)

    assert gone("video_id", "a") == {"a", "same"}
    assert gone("video_id", "part") == {"part"}
    assert gone("sha256", "1" * 64) == {"a", "same", "part"}
    assert gone("long_video_id", "film") == {"b", "c"}
    assert gone("clip_id", "a-00000000-00001000") == set()
    # It comes back years later as another file of the same bytes.
    from s2v.datapipe.sources.listing import bytes_key

    known = Tombstones(sources={"old": GoneSource(content=bytes_key(rows[3]))})
    assert gone("clip_id", "x", known) == {"old", "b"}


def world(**clips: tuple[str, list[str], float]) -> dict[str, pa.Table]:
    """Clips by name: kind, hashes of their frames, detail."""
    rows = [
        {"clip_id": f"{n}-00000000-00001000", "video_id": n, "kind": kind}
        for n, (kind, _, _) in clips.items()
    ]
    frames = [
        {"frame_id": f"{n}{i}", "clip_id": f"{n}-00000000-00001000", "phash": one, "blur": detail}
        for n, (_, hashes, detail) in clips.items()
        for i, one in enumerate(hashes)
    ]
    return {"clips": records.table("clips", rows), "frames": records.table("frames", frames)}


A = ["00000000ffffffff", "0123456789abcdef", "aaaa5555aaaa5555"]
NEAR = [f"{int(one, 16) ^ 7:016x}" for one in A]
FAR = ["ffff0000ffff0000", "f0f0f0f0f0f0f0f0", "1234123412341234"]


def test_copies_of_what_was_taken_down_are_known_by_its_hashes() -> None:
    tables = world(
        again=("video", NEAR, 99.0),
        mirrored=("video", FAR, 99.0),
        other=("video", ["0f" * 8, "3c" * 8], 99.0),
        flat=("video", A, 0.0),
        photo=("image", A[:1], 99.0),
    )
    clip = "lost-00000000-00001000"
    frames = tuple((one, turned, 99.0) for one, turned in zip(A, FAR, strict=True))
    gone = {clip: GoneClip(kind="video", frames=frames)}
    found = copies(tables, gone, PairRules())
    assert found == ["again-00000000-00001000", "mirrored-00000000-00001000"]
    flat = {clip: GoneClip(kind="video", frames=tuple((a, b, 0.0) for a, b, _ in frames))}
    assert copies(tables, flat, PairRules()) == []
    picture_gone = {clip: GoneClip(kind="image", frames=frames[:1])}
    assert copies(tables, picture_gone, PairRules()) == ["photo-00000000-00001000"]


def test_copies_of_a_clip_named_by_its_id_are_left_out_and_it_is_no_copy_of_itself(
    tmp_path: Path,
) -> None:
    tables = world(a=("video", A, 99.0), b=("video", NEAR, 99.0), c=("video", FAR, 99.0))
    line = Exclusion(key_type="clip_id", key="a-00000000-00001000", reason="", by="", when="")
    (tmp_path / "list").write_text(line.model_dump_json() + "\n")
    take_down(tmp_path, [tmp_path / "list"])
    found = copies_of_gone(tmp_path, tables, PairRules())
    assert [one.key for one in found] == ["b-00000000-00001000"]


def test_a_record_that_cannot_be_read_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"sources": {"a": {"clips": 3}}}')
    with pytest.raises(WriteError, match=r"tombstones.json: is not a record.*exclusions.jsonl"):
        read_tombstones(tmp_path)


def test_reports_made_before_are_named(tmp_path: Path) -> None:
    for name in ("shards", "report.html", "audit", ".lock", "tables"):
        (tmp_path / name).mkdir()
    assert made_from(tmp_path) == ["audit", "report.html"]


@given(
    st.sets(st.integers(0, 400), max_size=80), st.sets(st.integers(0, 400), max_size=40),
    st.integers(1, 9),
)  # fmt: skip
def test_taking_ids_away_moves_no_other_into_another_unit(
    there: set[int], gone: set[int], target: int
) -> None:
    content = {f"c{n:04d}": "x" for n in there}
    before = {i: set(members) for _, members in slices(content, target) for i in members}
    lost = {f"c{n:04d}" for n in there & gone}
    left = {one: made for one, made in content.items() if one not in lost}
    after = slices(left, target, lost)
    for _, members in after:
        assert set(members) == before[members[0]] - lost
    assert sorted(i for _, members in after for i in members) == sorted(left)
