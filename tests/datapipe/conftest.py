"""Shared fixtures of the curation tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media_corpus import Corpus
from s3_server import S3Server, s3_server
from synthetic_tables import film_world
from synthetic_vectors import rng
from written_run import WritableRun

from s2v.datapipe.base.media.cut import animate_still
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.write.write import Written


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Real damaged and odd media, made on first use."""
    return Corpus(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, started on first use."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_bucket(s3: S3Server) -> str:
    """The name of an empty bucket of the server, this test's alone."""
    return s3.new_bucket()


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real clip of two seconds."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    picture = rng("clip").integers(0, 256, (60, 100, 3), dtype=np.uint8)
    animate_still(encode_jpeg(picture), path, seconds=2, fps=8, short_side=48)
    return path


@pytest.fixture(scope="session")
def film_run(tmp_path_factory: pytest.TempPathFactory, clip_file: Path) -> WritableRun:
    """The film's world, ready to be written; for reading only."""
    folder = tmp_path_factory.mktemp("film")
    world = film_world()
    world.store_frames(folder)
    return WritableRun(folder, world, {row["clip_id"]: clip_file for row in world.rows["clips"]})


@pytest.fixture(scope="session")
def film_shards(film_run: WritableRun, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Its shards; for reading only."""
    return film_run.write(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def film_copy(film_shards: Written, tmp_path: Path) -> Path:
    """A copy of its shards, this test's to damage."""
    return Path(shutil.copytree(film_shards.folder, tmp_path / "copy"))
