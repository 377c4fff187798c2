"""Objects of a real S3 server: listed by etag, staged once, and never others than were listed."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3_server import S3Server

from s2v.datapipe import staging
from s2v.datapipe.base import records
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.probe import ProbeStage
from s2v.datapipe.sources import DownloadSettings, SourceError, SourceSpec, list_sources
from s2v.datapipe.sources.cache import Cache
from s2v.datapipe.sources.stager import Stager, StagingSettings
from s2v.datapipe.sources.stores import StoreOptions, Stores


class Bucket:
    """A bucket of the real server, and how the product is told of it."""

    def __init__(self, server: S3Server, name: str, folder: Path) -> None:
        self.server, self.name, self.folder = server, name, folder
        self.place = f"s3://{name}"

    def put(self, key: str, data: bytes) -> str:
        with self.server.filesystem().open_output_stream(f"{self.name}/{key}") as out:
            out.write(data)
        return f"{self.place}/{key}"

    def spec(self, **given: object) -> SourceSpec:
        return SourceSpec(**given, endpoint=self.server.endpoint)  # type: ignore[arg-type]  # of the test's keywords

    def downloads(self) -> DownloadSettings:
        return DownloadSettings(cache=str(self.folder / "cache"))

    def list(self, **given: object) -> list[Row]:
        return list_sources([self.spec(**given)], None, self.downloads())

    def stager(self) -> Stager:
        options = {self.place: StoreOptions(endpoint=self.server.endpoint)}
        return Stager(StagingSettings(downloads=self.downloads(), stores=options))


@pytest.fixture
def bucket(s3: S3Server, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return Bucket(s3, s3_bucket, tmp_path)


def picture(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_prefix_is_listed_by_etag_without_a_byte_being_fetched(bucket: Bucket) -> None:
    bucket.put("films/b c é#?.mp4", b"b" * 100)
    bucket.put("films/deep/a.png", picture(1))
    bucket.put("films/notes.txt", b"no")
    bucket.put("other/x.mp4", b"x")
    rows = bucket.list(folder=f"{bucket.place}/films", licence="CC0")
    assert sorted(r["path"] for r in rows) == [
        f"{bucket.place}/films/b c é#?.mp4",
        f"{bucket.place}/films/deep/a.png",
    ]
    for row in rows:
        assert row["sha256"] is None
        assert row["etag"]
        assert row["bytes"] in {100, len(picture(1))}
        assert row["licence"] == "CC0"
    assert records.table("sources", rows).num_rows == 2
    assert not (bucket.folder / "cache").exists()
    assert len(bucket.list(folder=bucket.place)) == 3


def test_the_same_bytes_in_two_places_keep_their_id_and_are_a_copy(bucket: Bucket) -> None:
    bucket.put("a/one.mp4", b"same" * 50)
    first = bucket.list(folder=bucket.place)
    bucket.put("b/two.mp4", b"same" * 50)
    both = bucket.list(folder=bucket.place)
    assert first[0]["video_id"] in {r["video_id"] for r in both}
    assert sum(r["duplicate_of"] is not None for r in both) == 1


def test_an_object_is_staged_once_for_many_at_a_time(bucket: Bucket) -> None:
    data = bytes(range(256)) * 80_000  # 20 MB: several reads
    bucket.put("big.mp4", data)
    [row] = bucket.list(folder=bucket.place)
    found: list[bytes] = []

    def worker() -> None:
        found.append(bucket.stager().local_path(row).read_bytes())

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [data] * 4
    files = list((bucket.folder / "cache").glob("[0-9a-f][0-9a-f]/*"))
    assert len(files) == 1


def test_an_object_that_changed_since_it_was_listed_is_not_used(bucket: Bucket) -> None:
    bucket.put("a.mp4", b"1" * 100)
    [row] = bucket.list(folder=bucket.place)
    bucket.put("a.mp4", b"2" * 100)
    with pytest.raises(MediaError, match=r"its etag is .*, listed is") as caught:
        bucket.stager().local_path(row)
    assert caught.value.kind == MediaErrorKind.CHANGED
    bucket.put("a.mp4", b"2" * 101)
    with pytest.raises(MediaError, match="101 bytes, listed are 100"):
        bucket.stager().local_path(row)
    bucket.server.filesystem().delete_file(f"{bucket.name}/a.mp4")
    with pytest.raises(MediaError) as gone:
        bucket.stager().local_path(row)
    assert gone.value.kind == MediaErrorKind.MISSING


def test_an_object_replaced_while_it_is_read_is_not_used(bucket: Bucket) -> None:
    """Large objects are read in parts; the parts of two versions must not be put together."""
    bucket.put("a.mp4", b"1" * (20 << 20))
    [row] = bucket.list(folder=bucket.place)

    class Replacing(Stores):
        def open(self, place: str) -> object:
            file = super().open(place)
            bucket.put("a.mp4", b"2" * (20 << 20))
            return file

    stager = bucket.stager()
    stager.stores = Replacing(stager.stores.options)
    with pytest.raises(MediaError) as caught:
        stager.local_path(row)
    assert caught.value.kind == MediaErrorKind.CHANGED


def test_a_stated_sha256_is_verified_and_is_the_identity(bucket: Bucket) -> None:
    data = picture(7)
    place = bucket.put("a.png", data)
    [right] = bucket.list(path=place, sha256=hashlib.sha256(data).hexdigest())
    assert bucket.stager().local_path(right).read_bytes() == data
    [wrong] = bucket.list(path=place, sha256="0" * 64)
    with pytest.raises(MediaError, match="listed is 0000") as caught:
        bucket.stager().local_path(wrong)
    assert caught.value.kind == MediaErrorKind.CHANGED


def test_a_wrong_key_is_one_clear_line_that_shows_no_secret(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket.put("a.mp4", b"1")
    [row] = bucket.list(path=place)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-at-all")
    for given in ({"path": place}, {"folder": bucket.place}, {"manifest": f"{bucket.place}/m.csv"}):
        with pytest.raises(SourceError, match="refuses access") as caught:
            bucket.list(**given)
        assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
        assert "not-the-secret" not in str(caught.value)
        assert bucket.server.key not in str(caught.value)
    with pytest.raises(MediaError) as staged:
        bucket.stager().local_path(row)
    assert staged.value.transient  # keys are mended, files are not to blame


def test_without_credentials_a_private_object_is_not_read(bucket: Bucket) -> None:
    place = bucket.put("a.mp4", b"1")
    with pytest.raises(SourceError, match="refuses access"):
        bucket.list(path=place, anonymous=True)


def test_a_bucket_or_prefix_that_is_not_there_is_told(bucket: Bucket) -> None:
    with pytest.raises(SourceError, match="no such bucket; is bucket 'no-such' spelled right"):
        bucket.list(folder="s3://no-such/films")
    with pytest.raises(SourceError, match="no such object"):
        bucket.list(folder=f"{bucket.place}/films")
    with pytest.raises(SourceError, match=r"m\.csv: no such object"):
        bucket.list(manifest=f"{bucket.place}/m.csv")


def test_a_store_that_is_down_stops_the_listing_and_leaves_units_open(bucket: Bucket) -> None:
    place = bucket.put("a.mp4", b"1")
    [row] = bucket.list(path=place)
    down = SourceSpec(path=place, endpoint="http://127.0.0.1:9")
    with pytest.raises(SourceError, match="NETWORK_CONNECTION"):
        list_sources([down], None, bucket.downloads())
    stager = bucket.stager()
    stager.stores = Stores({bucket.place: StoreOptions(endpoint="http://127.0.0.1:9")})
    with pytest.raises(MediaError) as caught:
        stager.local_path(row)
    assert caught.value.transient


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_in_the_bucket_names_objects_relative_to_itself(
    bucket: Bucket, kind: str
) -> None:
    bucket.put("set/films/a.mp4", b"a")
    bucket.put("set/b.mp4", b"b")
    rows = [
        {"path": "films/a.mp4", "video_id": "a", "from_us": 5},
        {"path": f"{bucket.place}/set/b.mp4", "video_id": "b", "from_us": None},
        {"path": "../set/gone.mp4", "video_id": "c", "from_us": None},
    ]
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        data = sink.getvalue()
    elif kind == "csv":
        lines = [f"{r['path']},{r['video_id']},{r['from_us'] or ''}" for r in rows]
        data = "\n".join(["path,video_id,from_us", *lines]).encode()
    else:
        data = "\n".join(map(json.dumps, rows)).encode()
    place = bucket.put(f"set/m.{kind}", data)
    listed = bucket.list(manifest=place)
    assert [(r["video_id"], r["path"], r["bytes"]) for r in listed] == [
        ("a", f"{bucket.place}/set/films/a.mp4", 1),
        ("b", f"{bucket.place}/set/b.mp4", 1),
        ("c", f"{bucket.place}/set/gone.mp4", None),
    ]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/etc/passwd", "leads out of the bucket"),
        ("../../x.mp4", "leads out of the bucket"),
        ("file://localhost/etc/passwd", "leads out of the bucket"),
    ],
)
def test_a_manifest_in_a_bucket_reads_no_file_of_this_machine(
    bucket: Bucket, path: str, told: str
) -> None:
    place = bucket.put("m.csv", f"path\n{path}\n".encode())
    with pytest.raises(SourceError, match=told):
        bucket.list(manifest=place)


def test_a_bank_in_the_bucket_is_fetched_once_and_its_members_staged(bucket: Bucket) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for n in range(3):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(picture(n))
            tar.addfile(info, io.BytesIO(picture(n)))
    place = bucket.put("banks/bank.tar", buffer.getvalue())
    rows = bucket.list(bank=f"{bucket.place}/banks")
    assert {r["path"] for r in rows} == {f"{place}#{n}.png" for n in range(3)}
    stager = bucket.stager()
    found = {r["path"]: stager.local_path(r).read_bytes() for r in rows}
    assert found == {f"{place}#{n}.png": picture(n) for n in range(3)}
    bucket.put("banks/bank.tar", buffer.getvalue() + bytes(512))
    stager.cache.release()
    fresh = Stager(bucket.stager().settings, cache=Cache(bucket.folder / "empty", 10**9))
    with pytest.raises(MediaError) as caught:
        fresh.local_path(rows[0])
    assert caught.value.kind == MediaErrorKind.CHANGED


def test_a_second_start_asks_the_store_for_changed_objects_only(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        bucket.put(f"{n}.mp4", bytes([n]) * 10)
    asked: list[str] = []
    real = Stores.head
    monkeypatch.setattr(
        Stores, "head", lambda self, place: asked.append(place) or real(self, place)
    )
    kept = bucket.folder / "run" / "sources"
    spec = [bucket.spec(folder=bucket.place)]
    first = list_sources(spec, kept, bucket.downloads())
    assert len(asked) == 4
    asked.clear()
    assert list_sources(spec, kept, bucket.downloads()) == first
    assert asked == []
    bucket.put("2.mp4", b"longer than before")
    changed = list_sources(spec, kept, bucket.downloads())
    assert asked == [f"{bucket.place}/2.mp4"]
    assert changed != first


def test_a_run_probes_objects_and_keeps_no_secret(bucket: Bucket) -> None:
    """Through the same doors as a worker: list_run, then stages that call local_path."""
    bucket.put("good.png", picture(3))
    bucket.put("bad.png", b"no picture at all")
    run = bucket.folder / "run"
    rows = staging.list_run(run, [bucket.spec(folder=bucket.place)], bucket.downloads(), quiet=True)
    staging.use(run)  # as a worker does
    unit = Unit("u", "video_id", sorted(r["video_id"] for r in rows), {"sources": rows}, run)
    [probed] = ProbeStage().run(unit)["probe"]
    assert (probed["width"], probed["height"]) == (30, 20)
    assert [q["error"] for q in unit.quarantine] == [MediaErrorKind.NOT_MEDIA]
    staging.use(bucket.folder / "none")
    for path in (p for p in run.rglob("*") if p.is_file()):
        assert bucket.server.secret.encode() not in path.read_bytes()
        assert bucket.server.key.encode() not in path.read_bytes()


def test_a_local_manifest_names_objects_of_another_store(bucket: Bucket) -> None:
    place = bucket.put("a.png", picture(1))
    path = bucket.folder / "m.csv"
    path.write_text(f"path\n{place}\n")
    run = bucket.folder / "run"
    spec = bucket.spec(manifest=str(path))
    [row] = staging.list_run(run, [spec], bucket.downloads(), quiet=True)
    assert Path(staging.local_path(row)).read_bytes() == picture(1)
    staging.use(bucket.folder / "none")
    with pytest.raises(SourceError, match="two endpoints"):
        list_sources([spec, SourceSpec(path=place)], None, bucket.downloads())


def test_the_endpoint_may_come_from_the_environment(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket.put("a.mp4", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.server.endpoint)
    [row] = list_sources([SourceSpec(path=place)], None, bucket.downloads())
    assert row["bytes"] == 1
