"""Every picture of a bank becomes a source with its caption and pair, or is told of."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.probe import ProbeStage
from s2v.datapipe.sources import SourceError, SourceSpec, list_sources
from s2v.datapipe.sources.spec import DownloadSettings
from s2v.datapipe.sources.stager import Stager, StagingSettings


def png(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


RED, GREEN, BLUE = png((255, 0, 0)), png((0, 255, 0)), png((0, 0, 255))


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def stager(tmp_path: Path) -> Stager:
    downloads = DownloadSettings(cache=str(tmp_path / "cache"))
    return Stager(StagingSettings(downloads=downloads))


def bank(path: Path, **given: object) -> list[Row]:
    return list_sources([SourceSpec(bank=str(path), **given)])  # type: ignore[arg-type]  # of the test's keywords


def staged(rows: list[Row], tmp_path: Path) -> dict[str, bytes | MediaErrorKind]:
    """What staging each row gives, by the member in its path."""
    found: dict[str, bytes | MediaErrorKind] = {}
    one = stager(tmp_path)
    for row in rows:
        name = str(row["path"]).partition("#")[2]
        try:
            found[name] = one.local_path(row).read_bytes()
        except MediaError as error:
            found[name] = error.kind
    return found


def test_pictures_of_a_webdataset_tar_bring_their_captions_and_facts(tmp_path: Path) -> None:
    facts = {"caption": "a red card", "url": "https://h.example/1?sig=1", "license": "CC BY 4.0"}
    path = write_tar(
        tmp_path / "bank.tar",
        [
            ("0001.jpg", RED),
            ("0001.json", json.dumps(facts).encode()),
            ("a/0002.txt", "grün\n".encode()),
            ("a/0002.png", GREEN),
            ("0003.png", BLUE),
            ("0003.pkl", b"cos\nsystem\n(S'true'\ntR."),
        ],
    )
    rows = {str(r["path"]).partition("#")[2]: r for r in bank(path, licence="house", credit="me")}
    assert set(rows) == {"0001.jpg", "a/0002.png", "0003.png"}
    first, second, third = rows["0001.jpg"], rows["a/0002.png"], rows["0003.png"]
    assert (first["given_caption"], first["licence"]) == ("a red card", "CC BY 4.0")
    assert first["url"] == "https://h.example/1"
    assert (second["given_caption"], second["licence"]) == ("grün", "house")
    assert (third["given_caption"], third["credit"]) == (None, "me")
    assert {r["kind"] for r in rows.values()} == {"image"}
    assert staged(list(rows.values()), tmp_path) == {
        "0001.jpg": RED,
        "a/0002.png": GREEN,
        "0003.png": BLUE,
    }


def test_ids_come_from_the_bytes_so_that_a_bank_may_be_moved(tmp_path: Path) -> None:
    one = write_tar(tmp_path / "one.tar", [("x.png", RED), ("y.png", GREEN)])
    two = write_tar(tmp_path / "two.tar", [("other/y.png", GREEN), ("other/x.png", RED)])
    ids = [{r["video_id"] for r in bank(path)} for path in (one, two)]
    assert ids[0] == ids[1]
    both = list_sources([SourceSpec(bank=str(one)), SourceSpec(bank=str(two))])
    assert len({r["video_id"] for r in both}) == 4
    assert sum(r["duplicate_of"] is not None for r in both) == 2


def test_a_tar_that_breaks_off_keeps_its_good_pictures_and_is_named_itself(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "bank.tar", [(f"{n}.png", png((n, n, n))) for n in range(5)])
    whole = path.read_bytes()
    path.write_bytes(whole[: 5 * 512 + 40])  # a header and a block each: in the third one
    rows = bank(path)
    found = staged(rows, tmp_path)
    assert found.pop("") == MediaErrorKind.TRUNCATED
    assert sorted(found) == ["0.png", "1.png"]
    assert all(isinstance(data, bytes) for data in found.values())
    with pytest.raises(MediaError, match=rf"bank\.tar.*The other {len(found)} pictures"):
        stager(tmp_path).local_path(next(r for r in rows if "#" not in r["path"]))


def test_members_that_are_refused_become_sources_that_say_why(tmp_path: Path) -> None:
    path = tmp_path / "bank.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("../out.png", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("empty.png"))
        info = tarfile.TarInfo("good.png")
        info.size = len(RED)
        tar.addfile(info, io.BytesIO(RED))
    assert staged(bank(path), tmp_path) == {
        "link.png": MediaErrorKind.UNSUPPORTED,
        "../out.png": MediaErrorKind.UNSUPPORTED,
        "empty.png": MediaErrorKind.EMPTY,
        "good.png": RED,
    }


def test_a_member_twice_and_a_broken_sidecar_are_told_and_cost_no_picture(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "bank.tar",
        [("a.png", RED), ("a.png", GREEN), ("b.json", b"{"), ("b.png", BLUE), ("c.json", b"[1]")],
    )
    rows = bank(path)
    found = staged(rows, tmp_path)
    assert found.pop("") == MediaErrorKind.CORRUPT
    assert found == {"a.png": RED, "b.png": BLUE}
    with pytest.raises(MediaError) as caught:
        stager(tmp_path).local_path(next(r for r in rows if "#" not in r["path"]))
    for told in ("'a.png' is there twice", "'b.json' cannot be read", "'c.json' is no JSON object"):
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("bank.tar", b"this is no tar" * 100, MediaErrorKind.NOT_MEDIA),
        ("bank.tar", b"", MediaErrorKind.EMPTY),
        ("bank.parquet", b"this is no parquet", MediaErrorKind.NOT_MEDIA),
    ],
)
def test_an_archive_that_is_none_becomes_one_source_that_says_so(
    tmp_path: Path, name: str, data: bytes, kind: MediaErrorKind
) -> None:
    (tmp_path / name).write_bytes(data)
    assert staged(bank(tmp_path / name), tmp_path) == {"": kind}


def huggingface(path: Path, rows: list[dict[str, object]]) -> Path:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    described = pa.struct([("item", pa.string()), ("description_0", pa.string()),
                           ("description_1", pa.string())])  # fmt: skip
    schema = pa.schema([("image", picture), ("description", described), ("caption", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=3)
    return path


def test_parquet_as_huggingface_writes_it(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": data, "path": None}, "caption": f"number {n}"}
        for n, data in enumerate([RED, GREEN, BLUE, png((1, 2, 3)), png((9, 9, 9))])
    ]
    rows += [{"image": {"bytes": None, "path": "far/away.png"}}, {"image": None}]
    path = huggingface(tmp_path / "bank.parquet", rows)
    listed = {str(r["path"]).partition("#")[2]: r for r in bank(path)}
    assert [r["given_caption"] for r in listed.values() if r["given_caption"]]
    assert listed["3/image"]["given_caption"] == "number 3"
    found = staged(list(listed.values()), tmp_path)
    assert found["1/image"] == GREEN
    assert found["4/image"] == png((9, 9, 9))
    assert found["5/image"] == found["6/image"] == MediaErrorKind.EMPTY


def test_a_cell_with_just_a_path_says_so(tmp_path: Path) -> None:
    path = huggingface(tmp_path / "bank.parquet", [{"image": {"bytes": None, "path": "x/y.png"}}])
    with pytest.raises(MediaError, match=r"only the path 'x/y\.png'"):
        stager(tmp_path).local_path(bank(path)[0])


def test_a_choice_of_columns_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "bank.parquet"
    pq.write_table(pa.table({"left": [RED], "right": [GREEN], "n": [1]}), path)
    with pytest.raises(SourceError, match=r"left, right.*columns = "):
        bank(path)
    with pytest.raises(SourceError, match=r"column 'lft' holds no bytes.*left, right"):
        bank(path, columns=("lft",))
    with pytest.raises(SourceError, match=r"captions names 'txt'.*left, right, n"):
        bank(path, columns=("left",), captions=("txt",))


def test_a_parquet_damaged_half_way_keeps_what_came_before(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40_000), np.uint8)
    path = tmp_path / "bank.parquet"
    pictures = [RED + row.tobytes() for row in noise]
    pq.write_table(pa.table({"image": pictures}), path, row_group_size=8, compression="gzip",
                   use_dictionary=False)  # fmt: skip
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\0" * 2000
    path.write_bytes(data)
    rows = bank(path)
    assert 8 <= len(rows) - 1 < 40
    assert [r["path"] for r in rows if "#" not in r["path"]] == [str(path)]
    with pytest.raises(MediaError) as caught:
        stager(tmp_path).local_path(next(r for r in rows if "#" not in r["path"]))
    assert caught.value.kind == MediaErrorKind.CORRUPT
    assert "cannot be read" in str(caught.value)


def test_two_columns_are_pictures_of_one_subject(tmp_path: Path) -> None:
    path = tmp_path / "bank.parquet"
    pq.write_table(
        pa.table({"a": [RED, BLUE], "b": [GREEN, png((7, 7, 7))], "ta": ["one", "two"],
                  "tb": ["uno", None]}), path)  # fmt: skip
    rows = bank(path, columns=("a", "b"), captions=("ta", "tb"))
    by_key: dict[str, set[str]] = {}
    for row in rows:
        by_key.setdefault(row["pair_key"], set()).add(row["path"].partition("#")[2])
        assert row["long_video_id"] == row["pair_key"]
    assert sorted(map(sorted, by_key.values())) == [["0/a", "0/b"], ["1/a", "1/b"]]
    captions = {r["path"].partition("#")[2]: r["given_caption"] for r in rows}
    assert captions == {"0/a": "one", "0/b": "uno", "1/a": "two", "1/b": None}
    unpaired = bank(path, columns=("a", "b"), pairs=False)
    assert {r["pair_key"] for r in unpaired} == {None}


def test_a_joined_picture_is_cut_as_declared_with_a_caption_each(tmp_path: Path) -> None:
    """Subjects200K: two pictures of one subject side by side, with padding around each."""
    wide = Image.new("RGB", (1056, 528), (0, 0, 0))
    wide.paste((255, 0, 0), (8, 8, 520, 520))
    wide.paste((0, 0, 255), (528, 8, 1040, 520))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    described = {"item": "card", "description_0": "a card", "description_1": "the card, blue"}
    path = huggingface(
        tmp_path / "bank.parquet",
        [{"image": {"bytes": buffer.getvalue(), "path": None}, "description": described}],
    )
    rows = bank(
        path,
        split=((8, 8, 512, 512), (528, 8, 512, 512)),
        captions=("description.description_0", "description.description_1"),
    )
    assert [r["path"].partition("#")[2] for r in sorted(rows, key=lambda r: r["path"])] == [
        "0/image#xywh=528,8,512,512",
        "0/image#xywh=8,8,512,512",
    ]
    assert len({r["pair_key"] for r in rows}) == 1
    assert len({r["video_id"] for r in rows}) == 2
    assert {r["duplicate_of"] for r in rows} == {None}
    for row in rows:
        left = row["path"].endswith("=8,8,512,512")
        pixels = load_image(stager(tmp_path).local_path(row))
        assert pixels.shape == (512, 512, 3)
        assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [
            [255, 0, 0] if left else [0, 0, 255]
        ]
        assert row["given_caption"] == ("a card" if left else "the card, blue")


def test_a_part_that_leads_out_of_the_picture_is_told(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "bank.tar", [("a.png", RED)])
    [row] = bank(path, split=((10, 10, 40, 10),))
    with pytest.raises(MediaError, match="leads out of its 40x30 pixels"):
        stager(tmp_path).local_path(row)


def test_a_pair_in_a_manifest_by_key_and_by_part(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(png((5, 6, 7), (80, 30)))
    write_tar(tmp_path / "bank.tar", [("a.png", RED)])
    lines = [
        {"path": "wide.png#xywh=0,0,40,30", "pair_key": "k1"},
        {"path": "wide.png#xywh=40,0,40,30", "pair_key": "k1"},
        {"path": "bank.tar#a.png", "pair_key": "k1", "given_caption": "red"},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = list_sources([SourceSpec(manifest=str(tmp_path / "m.jsonl"))])
    assert {r["pair_key"] for r in rows} == {r["long_video_id"] for r in rows} == {"k1"}
    assert len({r["video_id"] for r in rows}) == 3
    assert all(r["sha256"] for r in rows)
    assert [len(stager(tmp_path).local_path(r).read_bytes()) > 50 for r in rows] == [True] * 3


def test_a_folder_of_archives_is_one_bank_and_one_without_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "banks"
    folder.mkdir()
    with pytest.raises(SourceError, match=r"holds no \.tar and no \.parquet"):
        bank(folder)
    write_tar(folder / "b.tar", [("x.png", RED)])
    pq.write_table(pa.table({"image": [GREEN]}), folder / "a.parquet")
    assert len(bank(folder)) == 2
    with pytest.raises(SourceError, match="no such archive"):
        bank(folder / "c.tar")


def test_an_archive_is_listed_once_and_anew_when_it_changes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "bank.tar", [("x.png", RED)])
    spec = [SourceSpec(bank=str(path))]
    kept = tmp_path / "run" / "sources"
    first = list_sources(spec, kept)
    [table] = (kept / "banks").glob("*.parquet")
    before = table.stat().st_mtime_ns
    assert list_sources(spec, kept) == first
    assert table.stat().st_mtime_ns == before
    write_tar(path, [("x.png", GREEN)])
    assert list_sources(spec, kept)[0]["sha256"] != first[0]["sha256"]
    table.write_bytes(b"damaged")
    assert len(list_sources(spec, kept)) == 1


def test_an_archive_that_changed_since_it_was_listed_gives_no_other_picture(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "bank.tar", [("x.png", RED)])
    [row] = bank(path)
    write_tar(path, [("x.png", GREEN)])
    with pytest.raises(MediaError) as caught:
        stager(tmp_path).local_path(row)
    assert caught.value.kind == MediaErrorKind.CHANGED


def test_the_probe_measures_good_pictures_and_quarantines_bombs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2V_SOURCE_CACHE", str(tmp_path / "cache"))
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    path = write_tar(
        tmp_path / "bank.tar",
        [("good.png", RED), ("bomb.png", bomb.getvalue()), ("text.png", b"no picture")],
    )
    rows = bank(path)
    names = {r["video_id"]: r["path"].partition("#")[2] for r in rows}
    unit = Unit("u", "video_id", sorted(names), {"sources": rows}, tmp_path)
    probed = ProbeStage().run(unit)["probe"]
    assert [(names[r["video_id"]], r["width"], r["height"]) for r in probed] == [
        ("good.png", 40, 30)
    ]
    assert {names[q["id"]]: q["error"] for q in unit.quarantine} == {
        "bomb.png": MediaErrorKind.TOO_LARGE,
        "text.png": MediaErrorKind.NOT_MEDIA,
    }
