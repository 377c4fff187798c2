"""The image file can be built from this repository, and makes an image safe to run."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "infra/Containerfile.cpu"
KNOWN = {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "CMD"}


@dataclass(frozen=True)
class Instruction:
    """One instruction of an image file, its continued lines joined."""

    name: str
    words: str


def parse(text: str) -> list[Instruction]:
    """Return the instructions of an image file.

    Raises:
        ValueError: A line is no instruction that is used here.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, words = line.strip().partition(" ")
        if name not in KNOWN or not words:
            raise ValueError(f"not an instruction: {line!r}")
        found.append(Instruction(name, words.strip()))
    return found


@pytest.fixture(scope="module")
def image() -> list[Instruction]:
    """The instructions of the CPU image."""
    return parse(FILE.read_text(encoding="utf-8"))


def words(image: list[Instruction], name: str) -> list[str]:
    return [instruction.words for instruction in image if instruction.name == name]


def test_the_parser_refuses_what_no_builder_knows() -> None:
    assert [i.name for i in parse("FROM a:1\nRUN x \\\n    # why\n    && y\n")] == ["FROM", "RUN"]
    with pytest.raises(ValueError, match="RNU"):
        parse("FROM a:1\nRNU x\n")


def test_the_base_is_pinned_to_a_python_the_lock_is_made_for(image: list[Instruction]) -> None:
    bases = [word.split("=", 1)[1] for word in words(image, "ARG") if word.startswith("BASE=")]
    (base,) = bases
    pinned = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+", base)
    assert pinned, f"{base} moves: pin the patch release and the distribution"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == ">=3.11,<3.13"
    assert (int(pinned[1]), int(pinned[2])) in {(3, 11), (3, 12)}
    assert {word.split()[0] for word in words(image, "FROM")} == {"${BASE}"}


def test_everything_copied_is_in_the_repository_and_reaches_the_builder(
    image: list[Instruction],
) -> None:
    ignore = FILE.with_name(FILE.name + ".dockerignore").read_text().split()
    stages = {word.split(" AS ")[1] for word in words(image, "FROM") if " AS " in word}
    copied = []
    for line in words(image, "COPY"):
        parts = shlex.split(line)
        options = [part for part in parts if part.startswith("--")]
        origin = [option.split("=")[1] for option in options if option.startswith("--from=")]
        if origin:
            assert origin[0] in stages
            continue
        copied += [part for part in parts if not part.startswith("--")][:-1]
    assert {"uv.lock", "pyproject.toml", "packages", "tools", "jobs"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignore, f"{source} is kept from the builder by the ignore file"


def test_the_image_runs_as_an_ordinary_user(image: list[Instruction]) -> None:
    last = max(index for index, each in enumerate(image) if each.name == "FROM")
    users = words(image[last:], "USER")
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]), "Kubernetes checks a number, not a name"


def test_python_packages_come_by_hash_and_ffmpeg_from_a_package(image: list[Instruction]) -> None:
    runs = " && ".join(words(image, "RUN"))
    for command in re.split(r"&&|\|\||;", runs):
        if re.search(r"\bpip\b.*\binstall\b", command):
            assert "--require-hashes" in command, command
        if "apt-get install" in command:
            assert "--no-install-recommends" in command
            assert "ffmpeg" not in command
    assert "tools/install.py" in runs
    assert "rm -rf /var/lib/apt/lists" in runs


def test_the_programs_of_the_environment_are_found_where_they_were_installed(
    image: list[Instruction],
) -> None:
    folders = set(words(image, "WORKDIR"))
    assert folders == {"/opt/s2v"}, "a virtual environment cannot be moved"
    assert any("PATH=/opt/s2v/.venv/bin:" in word for word in words(image, "ENV"))
