"""What a stopped, crashed or changed run may cost: nothing that was committed."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import pytest
from engine_stages import AfterStage, LengthStage, clip, item
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.base import atomic
from s2v.datapipe.base.ids import bucket
from s2v.datapipe.engine import runner as runner_module
from s2v.datapipe.engine.runner import StageRun, UnitRunner
from s2v.datapipe.engine.store import StageStore, StoreError
from s2v.datapipe.engine.units import slices, windows

IDS = st.sets(st.text("abcdef0123456789", min_size=6, max_size=6), min_size=1, max_size=120)


def runner(run: Path, stage: LengthStage, *, retry: bool = False) -> UnitRunner:
    return UnitRunner(str(run), [StageRun(stage, "f")], retry)


def calls(run: Path) -> list[str]:
    path = run / "calls.txt"
    return path.read_text().split() if path.exists() else []


def test_a_committed_unit_is_never_measured_twice(tmp_path: Path) -> None:
    work = item("u", [clip("a"), clip("b")])
    runner(tmp_path, LengthStage()).measure(work)
    runner(tmp_path, LengthStage()).measure(work)
    assert calls(tmp_path) == ["a", "b"]


def test_loosening_a_gate_measures_just_the_newly_admitted(tmp_path: Path) -> None:
    work = item("u", [clip("a", 5), clip("b", 50), clip("c", 6)])
    runner(tmp_path, LengthStage(longest=10)).measure(work)
    assert calls(tmp_path) == ["a", "c"]
    runner(tmp_path, LengthStage(longest=100)).measure(work)
    assert calls(tmp_path) == ["a", "c", "b"]
    rows = StageStore(tmp_path, "length", "f").rows("u")["quality"]
    assert sorted(r["clip_id"] for r in rows) == ["a", "b", "c"]


def test_one_poisoned_clip_costs_no_other_and_keeps_its_reason(tmp_path: Path) -> None:
    work = item("u", [clip("a"), clip("bad"), clip("c")])
    runner(tmp_path, LengthStage(poisoned=("bad",))).measure(work)
    rows = StageStore(tmp_path, "length", "f").rows("u")
    assert sorted(r["clip_id"] for r in rows["quality"]) == ["a", "c"]
    assert [(r["id"], r["error"]) for r in rows["quarantine"]] == [("bad", "corrupt")]


def test_retry_quarantine_reopens_only_what_was_quarantined(tmp_path: Path) -> None:
    work = item("u", [clip("a"), clip("bad")])
    runner(tmp_path, LengthStage(poisoned=("bad",))).measure(work)
    runner(tmp_path, LengthStage(), retry=True).measure(work)
    rows = StageStore(tmp_path, "length", "f").rows("u")
    assert sorted(r["clip_id"] for r in rows["quality"]) == ["a", "bad"]
    assert rows.get("quarantine", []) == []
    assert calls(tmp_path) == ["a", "bad", "bad"]


def test_parts_without_their_commit_are_as_if_never_written(tmp_path: Path) -> None:
    work = item("u", [clip("a")])
    runner(tmp_path, LengthStage()).measure(work)
    folder = StageStore(tmp_path, "length", "f").folder
    (folder / "u.000.json").unlink()  # a crash between the parts and the commit
    runner(tmp_path, LengthStage()).measure(work)
    assert calls(tmp_path) == ["a", "a"]
    assert len(StageStore(tmp_path, "length", "f").rows("u")["quality"]) == 1


def test_two_writers_of_one_generation_never_spoil_each_others_parts(tmp_path: Path) -> None:
    """A machine that was given up too early may still be at work on a unit."""
    early, late = (StageStore(tmp_path, "caption", "f", seen={}) for _ in range(2))
    told = iter(["of the one", "of the other"])
    write = atomic.write_bytes

    def meanwhile(path: Path, data: bytes, **options: bool) -> None:
        # Before the commit, the other writes all of its own.
        if path.suffix == ".json" and (said := next(told, None)) is not None:
            commit(late, said)
        write(path, data, **options)

    def commit(store: StageStore, caption: str) -> None:
        store.commit("u", "clip_id", ["a"], {"captions": [{"clip_id": "a", "caption": caption}]}, 0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(atomic, "write_bytes", meanwhile)
        commit(early, "of the early")
    store = StageStore(tmp_path, "caption", "f")
    assert store.rows("u")["captions"][0]["caption"] == "of the early"
    assert len(store.commits("u")) == 1


def test_a_commit_that_a_machine_cannot_see_is_never_taken_for_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SEEN_WITHIN_S", 0.1)
    before = StageRun(LengthStage(), "f")
    later = UnitRunner(str(tmp_path), [StageRun(AfterStage(), "f")], before=[before])
    with pytest.raises(StoreError, match="storage that all machines share"):
        later.measure(item("u", [clip("a")]))
    assert not StageStore(tmp_path, "after", "f").commits("u")


@given(
    st.dictionaries(
        st.text("ab-_0", min_size=1, max_size=4), st.sets(st.integers(0, 1200)), max_size=6
    )
)
def test_a_listed_store_knows_what_listing_per_unit_knows(made: dict[str, set[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(Path(folder), "s", "f")
        store.folder.mkdir(parents=True)
        for unit, generations in made.items():
            for n in generations:
                (store.folder / f"{unit}.{n:03d}.json").touch()
                (store.folder / f"{unit}.{n:03d}.quality.0123abcd.parquet").touch()
        (store.folder / ".x.json.123.tmp").touch()
        assert store.listing() == {u: sorted(found) for u, found in sorted(made.items()) if found}


def test_an_actor_finds_what_was_committed_since_the_driver_looked(tmp_path: Path) -> None:
    plain = StageStore(tmp_path, "length", "f")
    rows = {"quality": [{"clip_id": "a"}]}
    plain.commit("u", "clip_id", ["a"], rows, 0)
    seen = plain.listing()
    plain.commit("u", "clip_id", ["b"], rows, 0)
    plain.commit("new", "clip_id", ["c"], rows, 0)
    told = StageStore(tmp_path, "length", "f", seen=seen)
    assert [c.ids for c in told.commits("u")] == [("a",), ("b",)]
    assert [c.ids for c in told.commits("new")] == [("c",)]
    (plain.folder / "u.000.json").unlink()  # a user may: it is measured again
    assert [c.ids for c in told.commits("u")] == [("b",)]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_part_is_named_and_never_read_as_data(tmp_path: Path, damage: str) -> None:
    runner(tmp_path, LengthStage()).measure(item("u", [clip("a")]))
    store = StageStore(tmp_path, "length", "f")
    part = next(store.folder.glob("u.000.quality.*.parquet"))
    if damage == "changed":
        part.write_bytes(part.read_bytes()[:-1] + b"x")
    else:
        part.unlink()
    with pytest.raises(
        StoreError, match=r"u\.000\.quality\.\w{8}\.parquet.*delete the unit's commit"
    ):
        store.rows("u")


def test_a_commit_that_is_not_json_says_which_file_to_delete(tmp_path: Path) -> None:
    runner(tmp_path, LengthStage()).measure(item("u", [clip("a")]))
    store = StageStore(tmp_path, "length", "f")
    (store.folder / "u.000.json").write_text("{")
    with pytest.raises(StoreError, match=r"u\.000\.json: not a commit"):
        store.rows("u")


def test_same_rows_give_the_same_committed_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        runner(folder, LengthStage()).measure(item("u", [clip("a"), clip("b")]))
        commit = json.loads((folder / "measure" / "length-f" / "u.000.json").read_text())
        digests.append(commit["parts"])
    assert digests[0] == digests[1]


@given(IDS, st.integers(1, 20))
def test_slices_hold_every_id_once_and_stay_bounded(ids: set[str], target: int) -> None:
    cut = slices(dict.fromkeys(ids, "x"), target)
    assert [i for _, group in cut for i in group] == sorted(ids)
    assert all(1 <= len(group) <= 2 * target for _, group in cut)
    assert len({name for name, _ in cut}) == len(cut)


@given(IDS, st.text("abcdef0123456789", min_size=6, max_size=6))
@settings(max_examples=50)
def test_adding_a_clip_keeps_nearly_all_commits_valid(ids: set[str], new: str) -> None:
    before = {name for name, _ in slices(dict.fromkeys(ids - {new}, "x"), 4)}
    after = slices(dict.fromkeys(ids | {new}, "x"), 4)
    at = next(n for n, (_, group) in enumerate(after) if new in group)
    # All but the neighbour in front, and all from the next boundary that the content defines.
    resumes = next(
        (n for n, (_, g) in enumerate(after) if n > at and bucket(g[0], 4) == 0), len(after)
    )
    kept = after[: max(at - 1, 0)] + after[resumes:]
    assert {name for name, _ in kept} <= before


def test_a_source_with_other_content_never_takes_the_old_commit() -> None:
    ids = ["v-1", "v-2"]
    old = slices(dict.fromkeys(ids, "sha-old"), 4)
    new = slices(dict.fromkeys(ids, "sha-new"), 4)
    assert {n for n, _ in old}.isdisjoint({n for n, _ in new})


@given(st.integers(1, 10**11), st.integers(10**6, 10**10))
def test_windows_tile_a_source_without_gap_or_overlap(duration: int, longest: int) -> None:
    if duration / longest > 2000:
        return
    cut = windows(duration, longest)
    assert cut[0][0] == 0
    assert cut[-1][1] == duration
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))
    assert all(end - start <= longest for start, end in cut)
