"""Downloads one pinned archive with the ordinary package client, pip or npm.

Indexes, mirrors, proxies and certificates are whatever that client is configured for. The pinned
sha256 is given to pip (`--require-hashes`), so nothing of an sdist is executed before its digest is
known to be right.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from s2v.datapipe.base.assets.errors import (
    DiskFull,
    FetchError,
    NoClient,
    NoNetwork,
    UpstreamChanged,
)
from s2v.datapipe.base.assets.extract import sha256_of
from s2v.datapipe.base.assets.manifest import Package

_POLL_SECONDS = 0.2
_OFFLINE = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution"
    r"|Name or service not known|Connection refused|Network is unreachable|Connection reset"
    r"|Cannot connect to proxy|ProxyError|[Tt]imed out|Max retries exceeded|RemoteDisconnected"
    r"|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|CERTIFICATE_VERIFY_FAILED"
)
_FULL = re.compile(r"No space left on device|ENOSPC|Disk quota exceeded")
_CHANGED = re.compile(r"DO NOT MATCH THE HASHES|HashMismatch|EINTEGRITY")
_VANISHED = re.compile(
    r"No matching distribution found|Could not find a version|E404|ETARGET|notarget"
)


@lru_cache(maxsize=1)
def find_pip() -> tuple[str, ...]:
    """Returns a command that runs pip.

    Tried in this order: `$S2V_PIP`; this interpreter's own pip; that of the Python a virtual
    environment was made from; the pip wheel that Python carries for ensurepip, run in place;
    another Python on the PATH; `uv tool run pip`.

    Raises:
        NoClient: If none of them starts.
    """
    given = os.environ.get("S2V_PIP")
    if given:
        command = shlex.split(given)
        if not _starts(command):
            raise NoClient(f"S2V_PIP={given!r} does not start a pip; unset or correct it")
        return tuple(command)
    candidates: list[list[str]] = []
    if importlib.util.find_spec("pip"):
        candidates.append([sys.executable, "-m", "pip"])
    if (base := _base_python()) != sys.executable:
        candidates.append([base, "-m", "pip"])
    candidates += [[sys.executable, str(wheel / "pip")] for wheel in _bundled_wheels()]
    for name in ("python3", "python"):
        if path := shutil.which(name):
            candidates.append([path, "-m", "pip"])
    if uv := shutil.which("uv") or _sibling("uv"):
        candidates.append([uv, "tool", "run", "pip"])
    for command in candidates:
        if _starts(command):
            return tuple(command)
    raise NoClient(
        "no pip found to download the assets with: install one (for example the package "
        "python3-pip), or set S2V_PIP to a command that runs pip"
    )


def find_npm() -> str:
    """Returns the path of npm.

    Raises:
        NoClient: If there is none; only optional assets need it.
    """
    if path := shutil.which("npm"):
        return path
    raise NoClient("this asset comes from npm, which is not installed; nothing else needs it")


def download(
    package: Package,
    folder: Path,
    *,
    advance: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Downloads one archive.

    Args:
        package: What to download.
        folder: An empty folder that the caller deletes; the client's own scratch goes there too.
        advance: Called from time to time with the bytes there so far.
        stop: When set, the client is ended and `FetchError` raised.

    Returns:
        Path of the archive, with the pinned sha256.

    Raises:
        NoClient, NoNetwork, DiskFull, UpstreamChanged, FetchError: One line each.
    """
    scratch, out = folder / "scratch", folder / "archive"
    scratch.mkdir(parents=True)
    out.mkdir()
    command = _npm(package, out) if package.index == "npm" else _pip(package, folder, out)
    code, log = _run(command, folder, package, advance, stop)
    if code != 0:
        raise _explain(package, log)
    found = [path for path in out.iterdir() if path.is_file()]
    if len(found) != 1:
        raise FetchError(f"{_label(package)}: the client left {len(found)} files, expected 1")
    digest = sha256_of(found[0])
    if digest != package.sha256:
        raise UpstreamChanged(_changed(package, f"sha256 {digest[:12]}…"))
    return found[0]


def _pip(package: Package, folder: Path, out: Path) -> list[str]:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [*find_pip(), "download", "--no-deps", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    command += ["--require-hashes", f"--dest={out}", f"--requirement={requirement}"]
    if package.index == "pypi-sdist":
        return [*command, f"--no-binary={package.name}"]
    command += ["--only-binary=:all:"]
    if package.tag:
        python, abi, platform = package.tag.split("-")
        command += [f"--python-version={python.removeprefix('cp')}", "--implementation=cp"]
        command += [f"--abi={abi}", f"--platform={platform}"]
    return command


def _npm(package: Package, out: Path) -> list[str]:
    spec = f"{package.name}@{package.version}"
    return [find_npm(), "pack", "--silent", "--ignore-scripts", f"--pack-destination={out}", spec]


def _run(
    command: list[str],
    folder: Path,
    package: Package,
    advance: Callable[[int], None] | None,
    stop: threading.Event | None,
) -> tuple[int, str]:
    # The client works below our folder: so its progress can be seen, and nothing stays behind.
    scratch = folder / "scratch"
    environment = dict(os.environ, TMPDIR=str(scratch), npm_config_cache=str(scratch / "npm"))
    environment["PIP_NO_COMPILE"] = "1"  # an sdist's build tools run once: bytecode costs seconds
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                try:
                    process.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    pass
                if advance:
                    advance(min(_bytes_below(folder), package.size))
                if stop is not None and stop.is_set():
                    raise FetchError(f"{_label(package)}: interrupted")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return process.returncode, log_path.read_text(errors="replace")


def _bytes_below(folder: Path) -> int:
    # The largest file: pip writes the archive to its scratch first and copies it afterwards.
    largest = 0
    for parent, _, names in os.walk(folder):  # unlike rglob it bears folders that vanish meanwhile
        for name in names:
            with contextlib.suppress(OSError):
                largest = max(largest, (Path(parent) / name).stat().st_size)
    return largest


def _explain(package: Package, log: str) -> FetchError:
    label = _label(package)
    if _FULL.search(log):
        return DiskFull(f"{label}: no space left on the disk of the asset cache; free some room")
    if _CHANGED.search(log):
        return UpstreamChanged(_changed(package, "another digest"))
    if _OFFLINE.search(log):
        return NoNetwork(
            f"{label}: the package index cannot be reached; the assets are fetched once over the "
            "network (check the connection, proxy and client settings), afterwards all works "
            "offline"
        )
    if _VANISHED.search(log):
        return UpstreamChanged(f"{label}: the package index does not offer this version (any more)")
    errors = [line for line in log.splitlines() if "error" in line.lower()] or log.splitlines()
    return FetchError(
        f"{label}: the client failed: {errors[-1].strip() if errors else 'no output'}"
    )


def _changed(package: Package, found: str) -> str:
    return (
        f"{_label(package)}: the index offers {found}, but the manifest pins sha256 "
        f"{package.sha256[:12]}…; it was not used. If the mirror is right, the manifest must be "
        "changed by a reviewed commit"
    )


def _label(package: Package) -> str:
    return f"{package.name} {package.version}"


def _starts(command: list[str]) -> bool:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _base_python() -> str:
    return str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")


def _bundled_wheels() -> list[Path]:
    folders = [Path("/usr/share/python-wheels")]
    spec = importlib.util.find_spec("ensurepip")
    if spec and spec.origin:
        folders.insert(0, Path(spec.origin).parent / "_bundled")
    return [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]


def _sibling(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent))
