"""Films that lie in a bucket, and nowhere else, through ``jobs/curate.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_run import Run, job
from s3_server import S3Server, s3_server

from s2v.datapipe.base.assets import asset, fetch
from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.write.verify import verify_shards

pytestmark = [pytest.mark.ray, pytest.mark.assets]
FILM, PHOTO, NOTES = "man-clip", "man-photo", b"notes of the shooting, not a film"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def test_films_in_a_bucket_are_fetched_by_the_workers_and_none_is_lost(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch([FILM, PHOTO])
    bucket = server.new_bucket()
    objects = {
        "films/man.mp4": asset(FILM).read_bytes(),
        "films/photographs/man.jpg": asset(PHOTO).read_bytes(),
        "films/notes.mp4": NOTES,
    }
    for key, data in objects.items():
        with server.filesystem().open_output_stream(f"{bucket}/{key}") as out:
            out.write(data)
    cache = tmp_path / "cache"
    config = tmp_path / "bucket.toml"
    config.write_text(
        f'folder = "{tmp_path / "run"}"\n'
        f'[[sources]]\nfolder = "s3://{bucket}/films"\nendpoint = "{server.endpoint}"\n'
        f'licence = "test"\n[downloads]\ncache = "{cache}"\n'
        "[engine]\ncpus = 1\n[select.split]\nheldout_share = 0.0\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    done = job("curate", "--config", str(config), "--quiet")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "conservation: holds" in done.stdout
    run = Run(tmp_path / "run")
    sources = {row["video_id"]: row for row in run.rows("sources")}
    assert {row["path"] for row in sources.values()} == {f"s3://{bucket}/{key}" for key in objects}

    # What came of each object: clips, or a reason. The workers' copies are what was put.
    refused = {row["id"]: row["error"] for row in run.rows("quarantine")}
    clipped = {row["video_id"] for row in run.rows("clips")}
    assert {sources[i]["path"]: error for i, error in refused.items()} == {
        f"s3://{bucket}/films/notes.mp4": "not_media"
    }
    assert clipped == sources.keys() - refused.keys()
    staged = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in cache.glob("[0-9a-f][0-9a-f]/*")
        if path.is_file()
    }
    assert staged >= {hashlib.sha256(data).hexdigest() for data in objects.values()}

    shards = run.folder / "shards"
    assert verify_shards(shards)["samples"] == len(run.rows("samples")) > 0
    for sample in ShardIndex.open(shards):
        assert sample.meta().source.video_id in clipped
        assert sample.read("mp4", verify=True)
    for path in (p for p in run.folder.rglob("*") if p.is_file()):
        assert server.secret.encode() not in path.read_bytes(), path
