"""Keep uv.lock free of host names: strip, hydrate and check.

uv writes the address of every file into its lock. A lock that names one registry serves no
mirror and no wheelhouse, so the committed uv.lock keeps names, versions, hashes and file names
only: ``registry = ".wheels"`` and ``path = "<file name>"``. uv still parses it, exports it with
hashes (that is how ``make install`` reads it) and can tell whether it fits pyproject.toml.

    python tools/lock.py strip     take the addresses out of uv.lock, in place
    python tools/lock.py hydrate   put them back (plain `uv sync` needs them), pins unchanged
    python tools/lock.py check     fail if the lock names a host or does not fit pyproject.toml

Only the standard library is used: the tool runs before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ".wheels"
# uv has no "resolve again and keep every pin" switch. Asking it to upgrade one package that is
# not in the lock does just that, and makes it read the registry where a plain `uv lock` would not.
NO_SUCH_PACKAGE = "s2v-no-such-package"

_REGISTRY = re.compile(r'\bregistry = "([^"]+://[^"]+)"')
_OTHER_REGISTRY = re.compile(rf'\bregistry = "(?!{re.escape(WHEELS)}")')
_FILE_URL = re.compile(r'\burl = "([^"]+://[^"]+)"')


class LockError(Exception):
    """The lock is not what it should be; the message says what to do."""


def stripped(text: str) -> str:
    """Return the lock without addresses.

    Args:
        text: A uv.lock as uv wrote it, or one that is stripped already.

    Raises:
        LockError: Something other than a registry file carries an address, such as a git source.
    """
    text = _REGISTRY.sub(f'registry = "{WHEELS}"', text)
    text = _FILE_URL.sub(lambda m: f'path = "{_file_name(m[1])}"', text)
    left = [
        f"line {n}: {line}"
        for n, line in enumerate(text.splitlines(), 1)
        if "://" in line or _OTHER_REGISTRY.search(line)
    ]
    if left:
        raise LockError(
            "uv.lock names a host or a folder of this machine; only packages from an index can be "
            "locked (is UV_FIND_LINKS set?):\n  " + "\n  ".join(left[:5])
        )
    return text


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])


def pins(text: str) -> dict[tuple[str, str], frozenset[str]]:
    """Return the hashes of every locked package, by its name and version.

    Workspace members have no files and map to an empty set.
    """
    found: dict[tuple[str, str], frozenset[str]] = {}
    for package in tomllib.loads(text).get("package", []):
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        key = (package["name"], package.get("version", ""))
        found[key] = frozenset(file["hash"] for file in files)
    return found


def difference(
    before: dict[tuple[str, str], frozenset[str]], after: dict[tuple[str, str], frozenset[str]]
) -> list[str]:
    """Say in words how two sets of pins differ; an empty list means that they do not."""
    said = [f"{name} {version} is gone" for name, version in sorted(before.keys() - after.keys())]
    said += [f"{name} {version} is new" for name, version in sorted(after.keys() - before.keys())]
    for key in sorted(before.keys() & after.keys()):
        # A mirror may lack a file, or show one that was uploaded after the lock was made. What
        # may not happen is that none is left of the files that were pinned.
        if before[key] and not before[key] & after[key]:
            said.append(f"{key[0]} {key[1]} has other files: no hash of the lock is on offer")
    return said


def strip(lock: Path) -> str:
    """Take the addresses out of `lock`, in place; pins and hashes stay as they are."""
    before = lock.read_text(encoding="utf-8")
    after = stripped(before)
    if difference(pins(before), pins(after)):
        raise LockError(f"{lock}: stripping would change a pin; uv's lock format has moved on")
    _replace(lock, after)
    return f"{lock.name}: {len(pins(after))} packages, no host"


def hydrate(lock: Path, uv: str) -> str:
    """Let uv write the addresses of its own index into `lock`, with every pin unchanged.

    If the index serves anything else than what is pinned, the lock is put back as it was.
    """
    before = lock.read_text(encoding="utf-8")
    try:
        _uv(uv, ["lock", "--upgrade-package", NO_SUCH_PACKAGE], lock.parent)
        said = difference(pins(before), pins(lock.read_text(encoding="utf-8")))
        if said:
            raise LockError("the index does not serve what is locked:\n  " + "\n  ".join(said))
    except BaseException:
        _replace(lock, before)
        raise
    return f"{lock.name}: addresses are back, every pin as it was; strip it before you commit"


def check(lock: Path, uv: str) -> str:
    """Check that `lock` names no host and fits pyproject.toml, without asking any index."""
    text = lock.read_text(encoding="utf-8")
    if stripped(text) != text:
        raise LockError(f"{lock.name} names a host: run `python tools/lock.py strip`")
    _uv(uv, ["lock", "--check", "--offline"], lock.parent)
    return f"{lock.name}: {len(pins(text))} packages, no host, fits pyproject.toml"


def _uv(uv: str, arguments: list[str], folder: Path) -> None:
    done = subprocess.run([uv, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LockError(f"`uv {' '.join(arguments)}` failed:\n{done.stderr.strip()}")


def _replace(lock: Path, text: str) -> None:
    beside = lock.with_name(lock.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(lock)


def find_uv(root: Path) -> str:
    """Return uv's path: the pinned one of `make tools` first, then one on the PATH."""
    own = root / ".tools" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise LockError("uv is not here: run `make tools`, which installs the pinned one in .tools")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return 0, or 1 after one clear message on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=["strip", "hydrate", "check"])
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of uv.lock")
    parser.add_argument("--uv", help="the uv program (default: .tools, then the PATH)")
    given = parser.parse_args(arguments)
    lock = given.root / "uv.lock"
    try:
        if given.verb == "strip":
            print(strip(lock))
        else:
            uv = given.uv or find_uv(given.root)
            print(hydrate(lock, uv) if given.verb == "hydrate" else check(lock, uv))
    except (LockError, OSError, tomllib.TOMLDecodeError) as error:
        print(f"lock {given.verb}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
