"""Every entry becomes one row with a stable id, what changed is seen, nothing is hashed twice."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.base import atomic, records
from s2v.datapipe.base.ids import check_video_id
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.settings import SettingsError, parse
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.sources import (
    SourceError,
    SourceSpec,
    identity_of,
    list_sources,
)
from s2v.datapipe.staging import local_path


def write(path: Path, data: bytes = b"film") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def manifest(folder: Path, *rows: dict[str, object]) -> list[Row]:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list_sources([SourceSpec(manifest=str(path))])


def test_rows_fit_the_table_and_keep_every_stated_fact(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    stated = {
        "video_id": "one", "long_video_id": "film", "licence": "CC0", "consent": "given",
        "credit": "Zoë", "url": "https://h.example/watch?v=1", "origin": "animation",
        "offset_us": 5, "from_us": 10, "to_us": 20, "minors": "none",
        "face_policy": "no faces", "given_caption": "a film",
    }  # fmt: skip
    rows = manifest(tmp_path, {"path": "a.mp4", **stated})
    [stored] = records.table("sources", rows).to_pylist()
    assert {key: stored[key] for key in stated} == stated


def test_parts_of_one_film_are_sources_of_one_long_video_hashed_once(tmp_path: Path) -> None:
    """Koala-36M and Panda-70M name a film many times, with other times."""
    write(tmp_path / "film.mp4")
    rows = manifest(
        tmp_path,
        {"path": "film.mp4", "from_us": 1_000_000, "to_us": 5_000_000},
        {"path": "film.mp4", "from_us": 7_000_000, "to_us": 9_500_000},
        {"path": "film.mp4", "from_us": 7_000_000},
        {"path": "film.mp4"},
    )
    whole = next(r["video_id"] for r in rows if r["from_us"] is None)
    assert [r["video_id"] for r in rows] == [
        whole,
        f"{whole}-1000-5000",
        f"{whole}-7000-9500",
        f"{whole}-7000-end",
    ]
    assert {r["long_video_id"] for r in rows} == {whole}
    assert {r["duplicate_of"] for r in rows} == {None}
    assert len({r["sha256"] for r in rows}) == 1


def test_given_ids_of_parts_share_the_films_long_video(tmp_path: Path) -> None:
    write(tmp_path / "film.mp4")
    rows = manifest(
        tmp_path,
        {"path": "film.mp4", "video_id": "clip1", "to_us": 5},
        {"path": "film.mp4", "video_id": "clip2", "from_us": 5},
    )
    assert [r["video_id"] for r in rows] == ["clip1", "clip2"]
    assert len({r["long_video_id"] for r in rows}) == 1


def test_the_same_part_twice_is_a_copy_and_ids_stay_different(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    write(tmp_path / "b.mp4")
    again = {"path": "a.mp4", "to_us": 5}
    rows = manifest(tmp_path, again, again, again, {"path": "b.mp4", "to_us": 5})
    assert len({r["video_id"] for r in rows}) == 4
    assert sum(r["duplicate_of"] is not None for r in rows) == 3


def test_an_id_given_twice_names_both_lines_and_the_way_out(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    with pytest.raises(SourceError) as caught:
        manifest(tmp_path, {"path": "a.mp4", "video_id": "x"}, {"path": "b.mp4", "video_id": "x"})
    for told in ("'x'", "a.mp4", "line 1", "b.mp4", "line 2", "leave video_id out"):
        assert told in str(caught.value)


def test_the_facts_of_an_entry_hold_for_manifest_rows_that_do_not_say_otherwise(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.mp4")
    path = write(tmp_path / "m.csv", b"path,licence\na.mp4,\nb.mp4,CC0\n")
    rows = list_sources([SourceSpec(manifest=str(path), licence="house", minors="none")])
    assert {Path(r["path"]).name: (r["licence"], r["minors"]) for r in rows} == {
        "a.mp4": ("house", "none"),
        "b.mp4": ("CC0", "none"),
    }


def test_a_folder_is_read_sorted_and_deep_and_one_without_media_is_an_error(tmp_path: Path) -> None:
    for name in ("b/z.MP4", "a.mkv", "b/c/d.png", "notes.txt"):
        write(tmp_path / "in" / name, name.encode())
    rows = list_sources([SourceSpec(folder=str(tmp_path / "in"), licence="CC0")])
    assert sorted(Path(r["path"]).name for r in rows) == ["a.mkv", "d.png", "z.MP4"]
    assert {r["licence"] for r in rows} == {"CC0"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: holds no video or image.*\.mp4"):
        list_sources([SourceSpec(folder=str(tmp_path / "empty"))])
    with pytest.raises(SourceError, match="no such folder"):
        list_sources([SourceSpec(folder=str(tmp_path / "none"))])


def test_what_is_missing_or_no_file_is_a_row_too(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    rows = manifest(tmp_path, {"path": "gone.mp4"}, {"path": "folder.mp4"})
    assert [(r["sha256"], r["bytes"]) for r in rows] == [(None, None)] * 2


AS_NOBODY = """
import os, sys
from s2v.datapipe.sources import SourceError, SourceSpec, list_sources
if os.getuid() == 0:  # whom no permission stops
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    list_sources([SourceSpec(**{sys.argv[1]: sys.argv[2]})])
except SourceError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["path", "folder"])
def test_what_may_not_be_read_is_told_at_once(what: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        inside = write(folder / "in" / "a.mp4")
        inside.chmod(0)
        if what == "folder":
            inside.parent.chmod(0)
        target = inside if what == "path" else folder
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, what, str(target)],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        inside.parent.chmod(0o755)
    assert "cannot be read (Permission denied)" in done.stdout
    assert "mend its permissions" in done.stdout


def test_a_stated_sha256_that_is_not_the_files_is_refused_at_staging(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    [row] = manifest(tmp_path, {"path": "a.mp4", "sha256": "0" * 64})
    with pytest.raises(MediaError, match="the manifest says 0000") as caught:
        local_path(row)
    assert caught.value.kind == MediaErrorKind.CHANGED
    [right] = manifest(tmp_path, {"path": "a.mp4", "sha256": row["etag"].removeprefix("sha256:")})
    assert local_path(right) == str(tmp_path / "a.mp4")


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    [row] = list_sources([SourceSpec(path=str(path))])
    path.write_bytes(b"longer than before")
    with pytest.raises(MediaError, match="18 bytes, listed are 4"):
        local_path(row)


def test_only_new_and_changed_files_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        write(tmp_path / f"{n}.mp4", bytes([n]))
    hashed: list[str] = []
    real = atomic.sha256_file
    monkeypatch.setattr(atomic, "sha256_file", lambda path: hashed.append(path.name) or real(path))
    spec, kept = [SourceSpec(folder=str(tmp_path))], tmp_path / "run" / "sources"
    first = list_sources(spec, kept)
    assert sorted(hashed) == ["0.mp4", "1.mp4", "2.mp4"]
    hashed.clear()
    assert list_sources(spec, kept) == first
    assert hashed == []
    write(tmp_path / "1.mp4", b"!")
    write(tmp_path / "3.mp4", b"new")
    changed = list_sources(spec, kept)
    assert sorted(hashed) == ["1.mp4", "3.mp4"]
    assert changed == list_sources(spec)  # the same without a ledger
    (kept / "ledger.parquet").write_bytes(b"damaged")
    assert list_sources(spec, kept) == changed


def test_measurements_rest_on_bytes_and_part_of_picture_not_on_facts(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "b.png", b"other")
    one, two, part = (
        identity_of(manifest(tmp_path, row)[0])
        for row in (
            {"path": "a.png"},
            {"path": "a.png", "licence": "CC0", "video_id": "x"},
            {"path": "a.png#xywh=0,0,4,4"},
        )
    )
    assert one == two
    assert len({one, part, identity_of(manifest(tmp_path, {"path": "b.png"})[0])}) == 3


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"pth": "a.mp4"}, "did you mean 'path'"),
        ({"path": "a.mp4", "from_u": 1}, "did you mean 'from_us'"),
        ({"path": "a.mp4", "from_us": -1}, "greater than or equal to 0"),
        ({"path": "a.mp4", "from_us": 5, "to_us": 5}, "to_us = 5 is not after from_us = 5"),
        ({"path": "a.mp4", "from_us": 1.5}, "from_us"),
        ({"path": "a.png", "to_us": 5}, "an image has no from_us"),
        ({"path": "a.mp4", "kind": "audio"}, "'video' or 'image'"),
        ({"path": "a.mp4", "minors": "some"}, "'none', 'possible' or 'unverified'"),
        ({"path": "a.mp4", "video_id": "a b"}, "must match"),
        ({"path": "a.mp4", "sha256": "abc"}, "sha256"),
        ({"path": "a.mp4", "url": "https://me:secret@h.example/"}, "carries credentials"),
        ({"path": "s3://key:secret@bucket/a.mp4"}, "credentials belong in the environment"),
        ({"path": "bank.tar"}, "list it as a bank"),
        ({"path": "ftp://h.example/a.mp4"}, "unknown scheme 'ftp'"),
        ({"path": "https://h.example/a.mp4"}, "add it to downloads.allow"),
        ({"path": "a.mp4", "endpoint": "http://evil.example"}, "unknown key 'endpoint'"),
        ({"licence": "CC0"}, "path: Field required"),
        ({"path": ""}, "path"),
        ({"path": ["a.mp4"]}, "valid string"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_line_and_without_secrets(
    tmp_path: Path, row: dict[str, object], told: str
) -> None:
    with pytest.raises(SourceError) as caught:
        manifest(tmp_path, {"path": "fine.mp4"}, row)
    assert "manifest.jsonl, line 2" in str(caught.value)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"path": "a.mp4", "folder": "b"},
        {"folder": "b", "video_id": "x"},
        {"folder": "b", "to_us": 5},
        {"path": "a.mp4", "split": [[0, 0, 4, 4]]},
        {"bank": "b.tar", "split": [[0, 0, 0, 4]]},
        {"bank": "b.parquet", "columns": ["a", "b"], "split": [[0, 0, 4, 4]]},
        {"folder": "b", "endpoint": "https://store.example"},
        {"folder": "s3://b/x", "endpoint": "store.example"},
        {"folder": "s3://b/x", "endpoint": "https://me:secret@store.example"},
        {"path": "bank.tar"},
    ],
)
def test_an_entry_that_contradicts_itself_is_refused_without_its_secrets(
    entry: dict[str, object],
) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(Settings, {"sources": [entry]}, "config.toml")
    assert str(caught.value).startswith("config.toml: sources.0")
    assert "secret" not in str(caught.value)


def test_nan_and_nothing_in_parquet_mean_not_given(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    nan = float("nan")
    table = pa.table(
        {
            "path": ["a.mp4", "b.mp4"],
            "from_us": pa.array([nan, 1000.0]),
            "credit": pa.array([None, ""], pa.string()),
            "video_id": ["one", "two"],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    rows = list_sources([SourceSpec(manifest=str(tmp_path / "m.parquet"))])
    assert [(r["video_id"], r["from_us"], r["credit"]) for r in rows] == [
        ("one", None, None),
        ("two", 1000, None),
    ]


FACTS = st.fixed_dictionaries(
    {"path": st.text(st.characters(codec="utf-8", exclude_characters="\0#:."), min_size=1)},
    optional={
        "credit": st.text(st.characters(codec="utf-8")),
        "licence": st.text(st.characters(codec="utf-8"), min_size=1),
        "from_us": st.integers(0, 2**53),
        "given_caption": st.text(st.characters(codec="utf-8"), max_size=200),
        "kind": st.just("video"),
    },
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(FACTS, min_size=1, max_size=5), kind=st.sampled_from(["jsonl", "parquet"]))
def test_whatever_a_manifest_says_is_what_the_table_says(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], kind: str
) -> None:
    folder = tmp_path_factory.mktemp("m")
    path = folder / f"m.{kind}"
    if kind == "parquet":
        names = sorted({key for row in rows for key in row})
        types = {"from_us": pa.int64()}
        schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    else:
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    listed = list_sources([SourceSpec(manifest=str(path))])
    assert len(listed) == len(rows)
    assert len({r["video_id"] for r in listed}) == len(rows)
    for row in listed:
        check_video_id(row["video_id"])
    for name in ("credit", "given_caption", "from_us"):
        said = sorted(str(row.get(name) or None) if name != "from_us" else str(row.get(name))
                      for row in rows)  # fmt: skip
        assert sorted(str(row[name]) for row in listed) == said
    assert listed == list_sources([SourceSpec(manifest=str(path))])


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), kind=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_any_bytes_are_a_manifest_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str
) -> None:
    path = tmp_path_factory.mktemp("m") / f"m.{kind}"
    path.write_bytes(data)
    with suppress(SourceError):
        list_sources([SourceSpec(manifest=str(path))])
