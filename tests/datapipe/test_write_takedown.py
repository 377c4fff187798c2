"""A takedown re-emits the shards it touches and no other; what was taken down is nowhere."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_run import WRITE, WritableRun, hashes

from s2v.datapipe import cli
from s2v.datapipe.base.exclusions import Exclusion, ExclusionError
from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.takedown import FILE, forget_clips, of_run, take_down, unmatched
from s2v.datapipe.write.verify import verify_shards
from s2v.datapipe.write.write import write_shards

SMALL = 130_000  # bytes: two or three samples of the film world


def exclusion(key: str, key_type: str = "video_id") -> Exclusion:
    line = {"key_type": key_type, "key": key, "reason": "asked", "by": "test", "when": "2026"}
    return Exclusion.model_validate(line)


def sources_of(folder: Path) -> dict[str, set[str]]:
    """By shard, the sources that its clips and references are of."""
    found: dict[str, set[str]] = {}
    for sample in ShardIndex.open(folder):
        inside = found.setdefault(sample.row["shard"], set())
        inside.add(sample.row["video_id"])
        inside |= {ref.from_.source for ref in sample.meta().refs}
    return found


def without(selection: Selection, tables: dict, run: WritableRun, gone: set[str]) -> Selection:  # type: ignore[type-arg]
    """The selection with the samples of some sources, or that refer to them, taken out."""
    video = dict(
        zip(
            selection.subjects["subject_id"].to_pylist(),
            selection.subjects["video_id"].to_pylist(),
            strict=True,
        )
    )
    keep = [
        not gone & {row["video_id"], *(video[r["reference_subject_id"]] for r in row["references"])}
        for row in selection.samples.to_pylist()
    ]
    import dataclasses

    return dataclasses.replace(selection, samples=selection.samples.filter(keep))


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    gone=st.sets(st.sampled_from(["film", "home", "shop", "ann-1", "bob"]), min_size=1, max_size=2),
    bound=st.sampled_from([SMALL, 250_000, 10_000_000]),
)
def test_exactly_the_shards_that_held_it_are_written_anew(
    film_run: WritableRun, tmp_path_factory: pytest.TempPathFactory, gone: set[str], bound: int
) -> None:
    from written_run import SETTINGS

    out = tmp_path_factory.mktemp("takedown") / "shards"
    tables = film_run.world.tables()
    selection = select(tables, SETTINGS)
    small = WRITE.model_copy(update={"max_shard_bytes": bound})
    write_shards(film_run.folder, tables, selection, small, film_run.files, out)
    held, before = sources_of(out), hashes(out)
    places = {name: (out / name).stat().st_ino for name in held}
    rest = without(selection, tables, film_run, gone)
    done = write_shards(film_run.folder, tables, rest, small, film_run.files, out)
    touched = {name for name, inside in held.items() if inside & gone}
    assert {*done.changed, *done.removed} == touched
    after = hashes(out)
    for name in held.keys() - touched:
        assert after[name] == before[name]
        assert (out / name).stat().st_ino == places[name]  # the very file: nothing was copied
    assert not any(gone & inside for inside in sources_of(out).values())
    assert verify_shards(out)["samples"] == rest.samples.num_rows


def test_shards_keep_to_their_size_and_every_sample_is_there_once(
    film_run: WritableRun, tmp_path: Path
) -> None:
    from written_run import SETTINGS

    tables = film_run.world.tables()
    selection = select(tables, SETTINGS)
    small = WRITE.model_copy(update={"max_shard_bytes": SMALL})
    done = write_shards(film_run.folder, tables, selection, small, film_run.files, tmp_path / "a")
    assert len(done.shards) > 8
    for name, samples in done.shards.items():
        assert samples == 1 or (tmp_path / "a" / name).stat().st_size <= SMALL
    assert {s.id for s in ShardIndex.open(tmp_path / "a")} == set(
        selection.samples["sample_id"].to_pylist()
    )
    verify_shards(tmp_path / "a")
    before = hashes(tmp_path / "a")
    again = write_shards(film_run.folder, tables, selection, small, film_run.files, tmp_path / "a")
    assert again.changed == ()
    assert hashes(tmp_path / "a") == before
    write_shards(film_run.folder, tables, selection, small, film_run.files, tmp_path / "b")
    assert hashes(tmp_path / "b") == before


def test_bytes_of_what_was_taken_down_are_nowhere_in_the_folder(
    film_run: WritableRun, film_copy: Path
) -> None:
    gone = [sample for sample in ShardIndex.open(film_copy) if sample.row["video_id"] == "home"]
    pictures = [sample.read("ref0.jpg")[-400:] for sample in gone]
    assert gone
    film_run.write(film_copy, exclusions=[exclusion("home")])
    everything = {path: path.read_bytes() for path in film_copy.parent.rglob("*") if path.is_file()}
    for path in everything:
        if path.suffix == ".parquet":  # compressed
            everything[path] += str(pq.read_table(path).to_pylist()).encode()
    for needle in (b"home-0", *pictures):
        assert not [path for path, data in everything.items() if needle in data], needle
    assert sorted(path.name for path in film_copy.parent.iterdir()) == ["copy"]


def test_a_damaged_shard_is_not_taken_for_an_unchanged_one(
    film_run: WritableRun, film_copy: Path
) -> None:
    before = hashes(film_copy)
    victim = sorted(film_copy.glob("in-*.tar"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    film_run.write(film_copy)
    assert hashes(film_copy) == before


def test_files_of_the_user_in_the_folder_are_taken_along(
    film_run: WritableRun, film_copy: Path
) -> None:
    (film_copy / "notes.txt").write_text("mine")
    (film_copy / ".nv-meta" / "cooker.py").write_text("# mine")
    (film_copy / ".nv-meta" / "split-test.yaml").write_text("of samples that are gone")
    film_run.write(film_copy, exclusions=[exclusion("home")])
    assert (film_copy / "notes.txt").read_text() == "mine"
    assert (film_copy / ".nv-meta" / "cooker.py").exists()
    stale = film_copy / ".nv-meta" / "split-test.yaml"  # ours: not taken for the user's
    assert not stale.exists() or "gone" not in stale.read_text()


def test_a_folder_behind_a_link_is_refused(film_run: WritableRun, film_copy: Path) -> None:
    link = film_copy.parent / "link"
    link.symlink_to(film_copy)
    with pytest.raises(WriteError, match="is a link or a mount"):
        film_run.write(link)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_disk_that_cannot_exchange_two_folders_gets_the_same_bytes(
    film_run: WritableRun, film_copy: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    from s2v.datapipe.write import folder

    if not exchange:
        monkeypatch.setattr(folder, "_exchange", lambda one, other: False)
    before = hashes(film_copy)
    film_run.write(film_copy, exclusions=[exclusion("home")])
    assert hashes(film_copy) != before
    film_run.write(film_copy)
    assert hashes(film_copy) == before
    # Killed between the two renames: nothing is there but what was, aside.
    os.rename(film_copy, film_copy.with_name(".copy.last"))
    (film_copy.with_name(".copy.next")).mkdir()
    film_run.write(film_copy)
    assert hashes(film_copy) == before
    assert sorted(path.name for path in film_copy.parent.iterdir()) == ["copy"]


def test_a_takedown_outlives_the_list_it_came_in(tmp_path: Path) -> None:
    one, two = exclusion("home"), exclusion("film", "long_video_id")
    lists = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    lists[0].write_text(one.model_dump_json() + "\n")
    lists[1].write_text(two.model_dump_json() + "\n\n" + one.model_dump_json() + "\n")
    run = tmp_path / "run"
    run.mkdir()
    assert of_run(run) == ()
    assert take_down(run, lists[:1]) == (one,)
    assert take_down(run, lists) == (two,)
    assert of_run(run) == (one, two)
    before = (run / FILE).read_bytes()
    lists[0].write_text('{"key_type": "video"}\n')
    with pytest.raises(ExclusionError, match=r"a.jsonl:1"):
        take_down(run, lists)
    assert (run / FILE).read_bytes() == before
    assert unmatched(run, [one]) == ["video_id home"]


def _adds(run: Path, name: str) -> None:
    path = run / f"{name}.list"
    path.write_text(exclusion(name).model_dump_json() + "\n")
    take_down(run, [path])


def test_lists_that_come_at_once_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    names = [f"source-{n}" for n in range(12)]
    at_once = [context.Process(target=_adds, args=(tmp_path, name)) for name in names]
    for one in at_once:
        one.start()
    for one in at_once:
        one.join()
        assert one.exitcode == 0
    assert sorted(one.key for one in of_run(tmp_path)) == sorted(names)


def test_cut_clips_of_no_sample_are_removed(tmp_path: Path) -> None:
    for name in ("a-1", "b-1"):
        path = tmp_path / "clips" / "0123" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert forget_clips(tmp_path, ["a-1"]) == 1
    assert [path.name for path in (tmp_path / "clips").rglob("*.mp4")] == ["a-1.mp4"]


def test_verify_takes_a_run_or_a_shard_folder(
    film_shards: object, film_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = film_copy.parent / "run"
    run.mkdir()
    film_copy.rename(run / "shards")
    for folder in (run, run / "shards"):
        assert cli.main(["verify", str(folder), "--deep", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["clips decoded"] > 15
    assert cli.main(["takedown", str(run), "--list", str(run / "no.jsonl")]) == 1
    assert "run.json: is not of a finished run" in capsys.readouterr().err
