"""The tests see a machine without ffmpeg, so that a fresh one is enough for a user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def path_without(request: pytest.FixtureRequest, root: Path) -> Callable[..., str]:
    """The function of tests/conftest.py that hides programs."""
    plugin = request.config.pluginmanager.get_plugin(str(root / "tests/conftest.py"))
    assert plugin is not None
    function: Callable[..., str] = plugin.path_without
    return function


@pytest.mark.parametrize("program", ["ffmpeg", "ffprobe"])
def test_neither_this_process_nor_a_child_finds_it(program: str) -> None:
    assert shutil.which(program) is None
    child = f"import shutil, sys; sys.exit(shutil.which({program!r}) is not None)"
    assert subprocess.run([sys.executable, "-c", child], check=False).returncode == 0
    assert "IMAGEIO_FFMPEG_EXE" not in os.environ


def test_the_packaged_ffmpeg_is_found_all_the_same() -> None:
    import imageio_ffmpeg

    program = Path(imageio_ffmpeg.get_ffmpeg_exe())
    assert Path(imageio_ffmpeg.__file__).parent in program.parents
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ffmpeg version")


def test_only_the_named_programs_are_hidden(
    path_without: Callable[..., str], tmp_path: Path
) -> None:
    for folder, names in {"a": ("ffmpeg", "git"), "b": ("make",)}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("#!/bin/sh\n")
            (tmp_path / folder / name).chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "none")])
    after = path_without(("ffmpeg",), before, scratch)
    assert shutil.which("ffmpeg", path=before) is not None
    assert shutil.which("ffmpeg", path=after) is None
    assert shutil.which("git", path=after) is not None
    assert after.split(os.pathsep)[1:] == before.split(os.pathsep)[1:]
