"""Brings assets into the cache: download, take out the named members, check, move into place."""

from __future__ import annotations

import errno
import fcntl
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from s2v.datapipe.base.assets.cache import cache_root, check, forget_stamp, is_present
from s2v.datapipe.base.assets.client import download, find_npm, find_pip
from s2v.datapipe.base.assets.errors import AssetError, DiskFull, NoClient
from s2v.datapipe.base.assets.extract import extract
from s2v.datapipe.base.assets.manifest import Asset, Package, select
from s2v.datapipe.base.assets.progress import Reporter, Silent, megabytes

_WORKERS = 3
_SLACK = 50_000_000
"""Bytes of room beside the files themselves that a client's scratch may take."""


@dataclass
class FetchReport:
    """What a fetch did.

    Attributes:
        fetched: Names of the assets that were brought.
        present: Names of those that were there already.
        skipped: Optional assets that could not be had, with the reason.
    """

    fetched: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def fetch(names: str | Iterable[str] = "demo", progress: Reporter | None = None) -> FetchReport:
    """Makes sure that the selected assets are in the cache. Without network if they already are.

    Several processes may fetch at once: one does, the others wait for it.

    Args:
        names: Names of assets or groups (`demo`, `weights`, `media`, `evals`, `lite`, `all` ...).
        progress: Told how far it is; by default nobody is.

    Raises:
        AssetUnknown: If a name is neither an asset nor a group.
        NoClient, NoNetwork, DiskFull, UpstreamChanged, FetchError: One line each.
        AssetError: If the cache cannot be written.
    """
    named = {names} if isinstance(names, str) else set(names)
    progress = progress or Silent()
    root = cache_root()
    wanted = select(named)
    missing = [entry for entry in wanted if not is_present(entry, root)]
    report = FetchReport()
    if missing:
        with _locked(root, progress):
            missing = [entry for entry in missing if not is_present(entry, root)]
            missing = _without_unavailable(missing, named, report, progress)
            _fetch_all(missing, root, progress)
    report.fetched = [entry.name for entry in missing]
    gone = {*report.fetched, *report.skipped}
    report.present = [entry.name for entry in wanted if entry.name not in gone]
    return report


def _without_unavailable(
    missing: list[Asset], named: set[str], report: FetchReport, progress: Reporter
) -> list[Asset]:
    kept = []
    for entry in missing:
        if entry.package.index == "npm" and entry.optional and entry.name not in named:
            try:
                find_npm()
            except NoClient as error:
                report.skipped[entry.name] = str(error)
                progress.note(f"skipping optional asset {entry.name}: {error}")
                continue
        kept.append(entry)
    return kept


def _fetch_all(missing: list[Asset], root: Path, progress: Reporter) -> None:
    by_package: dict[Package, list[Asset]] = defaultdict(list)
    for entry in missing:
        by_package[entry.package].append(entry)
    if not by_package:
        return
    if any(package.index != "npm" for package in by_package):
        find_pip()  # fail once and early rather than per package
    _check_room(root, by_package)
    # Large archives first: the last download then is a short one.
    packages = sorted(by_package, key=lambda package: (-package.size, package.name))
    stop = threading.Event()
    progress.begin(len(packages), sum(package.size for package in packages), str(root))
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="fetch")
    try:
        futures = [
            pool.submit(_fetch_package, package, by_package[package], root, progress, stop)
            for package in packages
        ]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failed = [error for future in done if (error := future.exception())]
        if failed:
            raise failed[0]
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        progress.close()


def _fetch_package(
    package: Package, entries: list[Asset], root: Path, progress: Reporter, stop: threading.Event
) -> None:
    label = f"{package.name} {package.version}"
    with tempfile.TemporaryDirectory(dir=root / ".tmp") as scratch:
        folder = Path(scratch)
        try:
            archive = download(
                package,
                folder / "download",
                advance=lambda done: progress.update(label, done),
                stop=stop,
            )
            for entry in entries:
                _install(entry, archive, folder / entry.name, root)
        except OSError as error:
            raise _explain(error, root) from None
    progress.finish(label, package.size, sum(len(entry.files) for entry in entries))


def _install(entry: Asset, archive: Path, staging: Path, root: Path) -> None:
    for file in entry.files:
        extract(archive, file, staging / file.path)
    forget_stamp(entry, root)
    for file in entry.files:
        target = root / entry.name / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (staging / file.path).replace(target)
    check(entry, root=root)


def _check_room(root: Path, by_package: dict[Package, list[Asset]]) -> None:
    files = sum(entry.size for entries in by_package.values() for entry in entries)
    # pip holds an archive twice for a moment (scratch, destination).
    largest = sorted((package.size for package in by_package), reverse=True)[:_WORKERS]
    needed = files + 2 * sum(largest) + _SLACK
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DiskFull(
            f"the asset cache {root} has {megabytes(free)} free, the fetch needs "
            f"{megabytes(needed)} for a while; free some room or set S2V_ASSETS to another folder"
        )


@contextmanager
def _locked(root: Path, progress: Reporter) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = (root / ".lock").open("w")
    except OSError as error:
        raise _explain(error, root) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"another process fetches into {root}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Whoever holds the lock is alone: what lies here was left by a fetch that was killed.
        shutil.rmtree(root / ".tmp", ignore_errors=True)
        try:
            (root / ".tmp").mkdir(exist_ok=True)
        except OSError as error:
            raise _explain(error, root) from None
        try:
            yield
        finally:
            shutil.rmtree(root / ".tmp", ignore_errors=True)


def _explain(error: OSError, root: Path) -> AssetError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space left in the asset cache {root}; free some room or set S2V_ASSETS to another "
            "folder"
        )
    return AssetError(
        f"cannot write to the asset cache {root}: {error}; set S2V_ASSETS to a "
        "folder you may write to"
    )
