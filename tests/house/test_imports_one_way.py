"""Imports run one way, so that each package can be used, and read, without the ones above it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

BASE = "s2v.datapipe.base"
# (whom it binds, what they may not import, save this, why)
RULES = [
    ("s2v.datapipe", ("s2v.model", "s2v.evals"), (), "curation knows neither trainer nor metrics"),
    ("s2v.model", ("s2v.evals",), (), "the trainer takes an evaluator callable; jobs/ supplies it"),
    ("s2v.evals", ("s2v.model",), (), "metrics judge files, whoever made them"),
    ("s2v.model", ("s2v.datapipe",), (BASE,), "of datapipe, a bare GPU machine has only the base"),
    ("s2v.evals", ("s2v.datapipe",), (BASE,), "of datapipe, a bare GPU machine has only the base"),
    (BASE, ("s2v.datapipe",), (BASE,), "the base is below every other room"),
]

NEVER_IN_BASE = {
    *("ray", "vllm", "transformers", "torchvision", "open_clip"),
    *("insightface", "groundingdino", "segment_anything"),
}


def within(name: str, package: str) -> bool:
    """Whether `name` is `package` or lies in it."""
    return name == package or name.startswith(package + ".")


def imported(tree: ast.Module, module: str, known: set[str], *, at_start: bool) -> Iterator[str]:
    """Yield what `module` imports, by full dotted name.

    Args:
        tree: The module, parsed.
        module: Its name.
        known: All modules of the house, which tell `from a import b` of a module from a name.
        at_start: Only what runs when the module is first imported, so neither what stands in a
            function nor what only a type checker sees.
    """
    package = module if any(within(name, module) and name != module for name in known) else ""
    package = package or module.rpartition(".")[0]
    for node in _import_nodes(tree, at_start=at_start):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1]
            base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in known else base


def _import_nodes(tree: ast.AST, *, at_start: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (at_start and _runs_later(node)):
            yield from _import_nodes(node, at_start=at_start)


def _runs_later(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def breaches(modules: dict[str, ast.Module]) -> list[str]:
    """Return one line for every import that runs against a rule."""
    known = set(modules)
    said = []
    for module, tree in modules.items():
        for target in imported(tree, module, known, at_start=False):
            for whom, barred, save, why in RULES:
                if (
                    within(module, whom)
                    and any(within(target, package) for package in barred)
                    and not any(within(target, package) for package in save)
                ):
                    said.append(f"{module} imports {target}: {why}")
    return said


def circle(modules: dict[str, ast.Module]) -> list[str]:
    """Return one circle of imports as the modules along it, or an empty list."""
    known = set(modules)
    graph = {
        name: sorted(
            {t for t in imported(tree, name, known, at_start=True) if t in known and t != name}
        )
        for name, tree in sorted(modules.items())
    }
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in graph[name]:
            if found := walk(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := walk(name, []))), [])


def distributions(requirements: list[str]) -> set[str]:
    """Return the normalised names of the packages that requirement strings ask for."""
    names = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


def curation_only(root: Path) -> set[str]:
    """Return the import names that only datapipe's extra `curate` brings."""
    projects = {
        name: tomllib.loads((root / "packages" / name / "pyproject.toml").read_text())["project"]
        for name in ("datapipe", "model", "evals")
    }
    wanted = distributions(projects["datapipe"]["optional-dependencies"]["curate"])
    for project in projects.values():
        wanted -= distributions(project["dependencies"])
    names = {
        module
        for module, sources in packages_distributions().items()
        if distributions(sources) & wanted
    }
    assert {"ray", "decord", "insightface", "open_clip", "groundingdino", "transformers"} <= names
    return names


def test_model_and_evals_need_no_curation_and_curation_needs_neither(
    modules: dict[str, ast.Module],
) -> None:
    assert BASE in modules
    assert breaches(modules) == []


@pytest.mark.parametrize("at_start", [True, False])
def test_the_base_needs_neither_ray_nor_a_production_model(
    modules: dict[str, ast.Module], root: Path, at_start: bool
) -> None:
    """Not even late; decoders and small runtimes it may import late, where they are used."""
    barred = curation_only(root) if at_start else NEVER_IN_BASE
    assert barred >= {"ray", "insightface"}
    known = set(modules)
    said = [
        f"{module} imports {target}"
        for module, tree in modules.items()
        if within(module, BASE)
        for target in imported(tree, module, known, at_start=at_start)
        if target.partition(".")[0] in barred
    ]
    assert said == []


def test_no_module_needs_itself_to_be_imported(modules: dict[str, ast.Module]) -> None:
    assert circle(modules) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("s2v.model.train", "from s2v.datapipe import engine"),
        ("s2v.model.train", "def f():\n    import s2v.evals.study"),
        ("s2v.evals.run", "from s2v.model import sample"),
        ("s2v.datapipe.base.ids", "from ..engine import runner"),
        ("s2v.datapipe.report", "import s2v.model"),
    ],
)
def test_an_import_against_the_arrows_is_found(module: str, line: str) -> None:
    tree = {name: ast.parse("") for name in (BASE, "s2v.datapipe.engine", "s2v.model")}
    assert breaches({**tree, module: ast.parse(line)}) != []
    assert breaches({**tree, module: ast.parse(f"from {BASE} import ids")}) == []


def test_a_circle_is_found_and_a_late_import_is_none() -> None:
    sources = {"s2v.a": "from . import b", "s2v.b": "import s2v.c", "s2v.c": "from s2v.a import x"}
    trees = {"s2v": ast.parse(""), **{name: ast.parse(text) for name, text in sources.items()}}
    assert circle(trees) == ["s2v.a", "s2v.b", "s2v.c", "s2v.a"]
    late = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import s2v.a\n"
    assert circle({**trees, "s2v.c": ast.parse(late + "def f():\n    import s2v.a\n")}) == []
