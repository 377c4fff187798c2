"""Shared fixtures of the curation tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from media_corpus import Corpus
from s3_server import S3Server, s3_server


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
