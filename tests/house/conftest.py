"""What the house tests read: the tracked files, the parsed modules, the tools as modules."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[Path]:
    """Every file git tracks and that is there, sorted."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    files = [root / name for name in sorted(listed.split("\0")) if name]
    return [file for file in files if file.is_file()]


@pytest.fixture(scope="session")
def modules(root: Path) -> dict[str, ast.Module]:
    """Every module of the three packages, parsed, by its dotted name; `__init__` as its package."""
    found: dict[str, ast.Module] = {}
    for source in sorted((root / "packages").glob("*/src")):
        for file in sorted(source.rglob("*.py")):
            parts = list(file.relative_to(source).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    return found


def _tool(name: str) -> ModuleType:
    file = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"s2v_tool_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def lock_tool() -> ModuleType:
    """tools/lock.py."""
    return _tool("lock")


@pytest.fixture(scope="session")
def install_tool() -> ModuleType:
    """tools/install.py."""
    return _tool("install")
