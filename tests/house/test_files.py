"""Files say one thing, run for everybody, and do nothing a stranger's input could turn on us."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

LINES = 450
# A file over the limit usually holds two ideas. Each entry says why this one holds one.
LONGER: dict[str, str] = {}

# Messages between the media room and its own child, through an unpickler that knows a list of
# classes and refuses every other name (tests/datapipe/test_media_messages.py).
READS_ITS_OWN_CHILD = {"packages/datapipe/src/s2v/datapipe/base/media/messages.py"}

# Addresses of package indexes and folders of one machine: both are the user's, not ours.
OURS_ONLY = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs|deb\.debian\.org"
    r"|artifactory|/simple/"
    r"|(?<![\w.~)}-])/(?:work|root|Users|opt/wheels|opt/pypi|home/(?!<|ray\b)\w+)/"
    r"|file:///(?!\$|\{)\w"
)
BINARY = {".jpg", ".png", ".mp4", ".onnx", ".parquet", ".tar", ".woff2", ".gif", ".pt", ".npz"}

UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "jsonpickle"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_CALLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "yaml.load",
    "yaml.unsafe_load",
    "joblib.load",
}


def foreign_lines(text: str) -> Iterator[str]:
    """Yield each line that names a package index or a folder of somebody's machine."""
    for number, line in enumerate(text.splitlines(), 1):
        if OURS_ONLY.search(line):
            yield f"{number}: {line.strip()[:120]}"


def unsafe_lines(tree: ast.Module) -> Iterator[str]:
    """Yield each use of what runs code that came as data, or hands a string to a shell."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            for name in [module] if module else [alias.name for alias in node.names]:
                if name.partition(".")[0] in UNSAFE_MODULES:
                    yield f"{node.lineno}: import {name}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
            if called in UNSAFE_NAMES or called in UNSAFE_CALLS:
                yield f"{node.lineno}: {called}()"
            if given.get("shell", "False") != "False":
                yield f"{node.lineno}: {called}(shell={given['shell']})"
            if given.get("allow_pickle", "False") != "False":
                yield f"{node.lineno}: {called}(allow_pickle={given['allow_pickle']})"
            if called == "torch.load" and given.get("weights_only") != "True":
                yield f"{node.lineno}: torch.load without weights_only=True"
            if called.endswith(".extractall") and given.get("filter") != "'data'":
                yield f"{node.lineno}: {called} without filter='data'"


def test_a_file_holds_one_idea(tracked: list[Path], root: Path) -> None:
    lengths = {
        str(file.relative_to(root)): len(file.read_text(encoding="utf-8").splitlines())
        for file in tracked
        if file.suffix == ".py"
    }
    over = {name: lines for name, lines in lengths.items() if lines > LINES}
    assert over.keys() - LONGER.keys() == set(), f"split these, or say why not: {over}"
    assert LONGER.keys() - over.keys() == set(), "these fit again: take them off the list"


def test_nothing_points_at_one_machine_or_one_registry(tracked: list[Path], root: Path) -> None:
    said = [
        f"{file.relative_to(root)}:{line}"
        for file in tracked
        if file.suffix not in BINARY and file != Path(__file__)
        for line in foreign_lines(file.read_text(encoding="utf-8"))
    ]
    assert said == []


def test_the_namespace_stays_open_for_all_three_packages(tracked: list[Path], root: Path) -> None:
    spaces = [root / "packages" / name / "src/s2v" for name in ("datapipe", "model", "evals")]
    for space in spaces:
        assert space.is_dir()
        assert not (space / "__init__.py").exists(), f"{space} would hide the other two packages"
    # With --import-mode=importlib an __init__.py would make two tests of one name collide.
    assert [
        f for f in tracked if f.name == "__init__.py" and f.is_relative_to(root / "tests")
    ] == []


def test_data_from_strangers_is_never_run(tracked: list[Path], root: Path) -> None:
    said = [
        f"{file.relative_to(root)}:{line}"
        for file in tracked
        if file.suffix == ".py" and file.relative_to(root).parts[0] in ("packages", "jobs", "tools")
        if str(file.relative_to(root)) not in READS_ITS_OWN_CHILD
        for line in unsafe_lines(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert said == []


@pytest.mark.parametrize(
    "line",
    [
        'INDEX = "https://pypi.org/simple"',
        "see /root/.cache/models",
        "open('/home/ann/film.mp4')",
        "uv pip install --find-links /opt/wheels/",
        "file:///srv/index",
    ],
)
def test_a_line_for_one_machine_is_found(line: str) -> None:
    assert list(foreign_lines(line)) != []


@pytest.mark.parametrize(
    "line",
    [
        "see https://arxiv.org/abs/2502.11079",
        "s3://bucket/work/run",
        "runs/demo/work/x",
        "~/films/",
    ],
)
def test_an_ordinary_line_is_left_alone(line: str) -> None:
    assert list(foreign_lines(line)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "eval(text)",
        "subprocess.run(command, shell=True)",
        "os.system(f'ffmpeg -i {name}')",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
    ],
)
def test_a_dangerous_line_is_found(line: str) -> None:
    assert list(unsafe_lines(ast.parse(line))) != []


def test_a_harmless_line_is_left_alone() -> None:
    text = "model.eval()\nre.compile(p)\ntorch.load(p, weights_only=True)\nrun(c, shell=False)\n"
    assert list(unsafe_lines(ast.parse(text))) == []
