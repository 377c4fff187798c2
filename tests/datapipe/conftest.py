"""Shared fixtures of the curation tests."""

from __future__ import annotations

import pytest
from media_corpus import Corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Real damaged and odd media, made on first use."""
    return Corpus(tmp_path_factory.mktemp("media"))
