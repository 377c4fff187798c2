"""Where a worker finds the bytes of a source on its own machine.

Stages open local files only. A file on disk is itself; an object, a URL, a member of an archive
or a part of a picture is brought into this machine's cache first (:mod:`.sources.stager`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from s2v.datapipe.base import atomic
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.sources import DownloadSettings, SourceSpec, list_sources
from s2v.datapipe.sources.stager import Stager, StagingSettings

FILE: Final = "sources/staging.json"


class _Process:
    """The staging of this process: one run at a time, opened when first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.run: Path | None = None
        self.stager: Stager | None = None


_process = _Process()


def use(run: Path) -> None:
    """Take the allow-list, endpoints and cache bound of a run, from here on in this process.

    Nothing is read before the first source that needs it. Without it no URL is fetched, and
    object stores are those of the environment.
    """
    with _process.lock:
        if _process.stager is not None:
            _process.stager.cache.release()
        _process.run, _process.stager = run, None


def record(run: Path, settings: StagingSettings) -> None:
    """Write what the workers of a run need beside it."""
    atomic.write_json(run / FILE, settings.model_dump(mode="json"))


def list_run(
    run: Path, specs: Sequence[SourceSpec], downloads: DownloadSettings, *, quiet: bool = False
) -> list[Row]:
    """List the sources of a run, remember what was hashed, and take the run's rules here.

    Returns:
        Rows of table ``sources``.

    Raises:
        SourceError: as :func:`s2v.datapipe.sources.list_sources`.
    """
    stager = Stager(StagingSettings(downloads=downloads))
    rows = list_sources(specs, run / "sources", quiet=quiet, stager=stager)
    stager.cache.release()
    record(run, stager.recorded())
    use(run)
    return rows


def local_path(source: Row) -> str:
    """Path of a local file with the source's bytes.

    A path stays valid until this process has asked for :data:`.sources.cache.PINS` further ones.

    Args:
        source: a row of table ``sources``.

    Raises:
        MediaError: ``missing``, ``changed`` since it was listed, ``refused`` by the allow-list,
            what is wrong with the archive; ``transient`` when the store or network failed.
    """
    return str(_current().local_path(source))


def _current() -> Stager:
    with _process.lock:
        if _process.stager is None:
            _process.stager = Stager(_settings(_process.run))
        return _process.stager


def _settings(run: Path | None) -> StagingSettings:
    path = run / FILE if run else None
    if path is None or not path.is_file():
        return StagingSettings()
    return StagingSettings.model_validate(json.loads(path.read_text(encoding="utf-8")))
