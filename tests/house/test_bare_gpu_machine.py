"""A trainer's machine has the model's and the evaluation's packages, and none of curation's."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

# Curation's packages that pip would not put on that machine, by the names they are imported by.
ABSENT = ("ray", "insightface", "decord", "open_clip", "groundingdino", "segment_anything")

IMPORT_ALL = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BARRED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

BARRED = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Absent())
try:
    import ray
except ModuleNotFoundError:
    pass
else:
    sys.exit("the block does not hold")
package = importlib.import_module(sys.argv[1])
failed = []
def note(name):
    failed.append(f"{name}: {sys.exc_info()[1]!r}")
for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", note):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except Exception:
        note(module.name)
print("\\n".join(sorted(set(failed))))
sys.exit(bool(failed))
"""


def test_the_absent_names_are_real(root: Path) -> None:
    curate = tomllib.loads((root / "packages/datapipe/pyproject.toml").read_text())["project"]
    wanted = " ".join(curate["optional-dependencies"]["curate"]).lower().replace("_", "-")
    installed = packages_distributions()
    for name in ABSENT:
        assert any(source.lower().replace("_", "-") in wanted for source in installed[name]), name


@pytest.mark.parametrize("package", ["s2v.model", "s2v.evals"])
def test_every_module_imports_where_curation_is_not_installed(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, package, ",".join(ABSENT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
