"""What the README tells a user to type exists, and what it links to is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# Pictures of a run that are put in when the page is finished. Nothing that is there may stay here.
AWAITED: set[str] = set()  # pages and pictures linked before they exist
PAGES = ["README.md", "CONTRIBUTING.md", "docs/index.md", "infra/README.md"]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the commands of the shell blocks and of the inline code that starts like one."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`((?:make|s2v-\w+|python) [^`]+)`", prose)
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def targets(makefile: str) -> dict[str, str]:
    """Return the Makefile's targets with their one-line explanations."""
    return dict(re.findall(r"^([a-z-]+):.*?## (.+)$", makefile, flags=re.MULTILINE))


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest, root: Path) -> Path:
    """One page of documentation."""
    return root / str(request.param)


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    """README.md."""
    return (root / "README.md").read_text(encoding="utf-8")


def test_every_make_target_it_names_exists(page: Path, root: Path) -> None:
    known = targets((root / "Makefile").read_text())
    assert {
        "demo",
        "demo-long",
        "test",
        "install",
        "prove",
        "lint",
        "lock",
        "clean",
    } <= known.keys()
    for words in commands(page.read_text(encoding="utf-8")):
        if words[0] == "make" and len(words) > 1:
            assert words[1] in known, f"{page.name}: make {words[1]}"


def test_make_alone_lists_every_target(root: Path) -> None:
    said = subprocess.run(
        ["make", "--no-print-directory"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    for target, explanation in targets((root / "Makefile").read_text()).items():
        assert re.search(rf"^  make {target} +{re.escape(explanation)}$", said, re.MULTILINE)


def test_both_commands_a_newcomer_types_are_there(readme: str) -> None:
    typed = [words[:2] for words in commands(readme)]
    assert ["make", "demo"] in typed
    assert ["make", "test"] in typed


def test_every_link_leads_somewhere(page: Path, root: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        target = (page.parent / link).resolve()
        if str(target.relative_to(root)) in AWAITED:
            assert not target.exists(), f"{link} is there: take it off AWAITED"
            continue
        assert target.exists(), f"{page.name} links to {link}"


def test_every_program_knows_the_verbs_and_options_shown(page: Path, root: Path) -> None:
    scripts = {
        name: root / ".venv/bin" / name
        for package in ("datapipe", "model", "evals")
        for name in tomllib.loads((root / "packages" / package / "pyproject.toml").read_text())[
            "project"
        ]["scripts"]
    }
    for words in commands(page.read_text(encoding="utf-8")):
        name = Path(words[0]).name
        if name in scripts:
            program = [str(Path(sys.executable).parent / name), words[1]]
        elif words[0].endswith("python") and words[1].endswith(".py"):
            program = [sys.executable, words[1]]
        elif words[:3] == ["ray", "job", "submit"]:
            program = [sys.executable, words[words.index("python") + 1]]
            words = words[words.index("python") :]  # noqa: PLW2901 # the job is what is checked
        else:
            continue
        shown = _help(program, root)
        if " STEP ..." in shown.stdout:  # a verb of several, such as `study build`
            shown = _help([*program, words[2]], root)
        assert shown.returncode == 0, f"{page.name}: {shlex.join(words)}: {shown.stderr[-300:]}"
        for option in (word for word in words if word.startswith("--")):
            assert option.split("=")[0] in shown.stdout, f"{page.name}: {shlex.join(words)}"


def test_every_file_a_command_names_exists(page: Path, root: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        for word in words:
            if re.fullmatch(r"(jobs|infra|tools|packages)/\S+\.\w+", word):
                assert (root / word).is_file(), f"{page.name}: {shlex.join(words)}"


def test_the_configuration_it_shows_is_one_the_program_takes(readme: str, tmp_path: Path) -> None:
    from s2v.datapipe.base.settings import load
    from s2v.datapipe.config import Settings

    shown = blocks(readme, "toml")
    assert shown
    loaded = []
    for number, text in enumerate(shown):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        loaded.append(load(Settings, file))
    assert loaded[0].sources
    assert any(one.roles.profile == "production" for one in loaded)


def _help(program: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, "--help"], cwd=root, capture_output=True, text=True, check=False
    )
