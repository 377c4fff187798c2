"""Scenarios: every combination of classes has exactly one name, and names are stable."""

from __future__ import annotations

import re
from itertools import combinations_with_replacement, permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe.base.shards import MAX_REFERENCES
from s2v.datapipe.pair.scenario import GROUPS, scenario, scenarios
from s2v.datapipe.roles import CLASSES

EVERY = [
    classes
    for count in range(MAX_REFERENCES + 1)
    for classes in combinations_with_replacement(CLASSES, count)
]
#: What users filter by: a changed name breaks their configurations.
NAMES = {
    "none": (),
    "single-human": ("human",),
    "single-animal": ("animal",),
    "single-object": ("other",),
    "single-clothes": ("clothes",),
    "single-product": ("product",),
    "single-landmark": ("landmark",),
    "single-ip-character": ("ip_character",),
    "multi-person": ("human", "human"),
    "multi-animal": ("animal", "animal", "animal"),
    "multi-object": ("other", "product"),
    "multi-clothes": ("clothes", "clothes"),
    "multi-product": ("product", "product"),
    "multi-landmark": ("landmark", "landmark"),
    "multi-ip-character": ("ip_character", "ip_character"),
    "human-pet": ("human", "animal"),
    "human-object": ("human", "other"),
    "try-on": ("human", "clothes", "clothes"),
    "human-landmark": ("human", "human", "landmark"),
    "human-ip-character": ("ip_character", "human"),
    "animal-object": ("product", "animal"),
    "clothes-object": ("product", "clothes"),
    "ip-character-object": ("ip_character", "other"),
    "human-animal-clothes": ("clothes", "animal", "human"),
    "human-animal-object": ("product", "other", "animal", "human"),
    "human-ip-character-animal-clothes-object-landmark": (
        *("landmark", "other", "clothes", "animal", "ip_character", "human"),
    ),
}


@pytest.mark.parametrize(("name", "classes"), NAMES.items(), ids=list(NAMES))
def test_names_stay_as_users_filter_by_them(name: str, classes: tuple[str, ...]) -> None:
    assert scenario(classes) == name


def test_every_combination_of_up_to_six_references_has_a_listed_name() -> None:
    assert {scenario(classes) for classes in EVERY} == set(scenarios())
    assert len(scenarios()) == len(set(scenarios())) == 72


def test_two_references_never_share_a_name_with_one() -> None:
    for classes in EVERY:
        assert scenario(classes).startswith("single-") == (len(classes) == 1)


def test_names_tell_which_groups_are_together() -> None:
    """Two combinations have one name only if they join the same groups."""
    groups = {name: group for group, names in GROUPS.items() for name in names}
    seen: dict[str, set[str]] = {}
    for classes in EVERY:
        together = {groups[name] for name in classes}
        assert seen.setdefault(scenario(classes), together) == together


@given(st.lists(st.sampled_from(CLASSES), max_size=6).flatmap(
    lambda names: st.tuples(st.just(names), st.permutations(names))
))  # fmt: skip
def test_the_order_of_the_references_changes_nothing(both: tuple[list[str], list[str]]) -> None:
    assert scenario(both[0]) == scenario(both[1])


def test_names_are_safe_in_addresses_and_file_names() -> None:
    for name in scenarios():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)


def test_an_unknown_class_is_an_error_and_not_a_scenario() -> None:
    with pytest.raises(ValueError, match="'creature' is no class of subjects"):
        scenario(["human", "creature"])


def test_the_table_of_the_documentation_names_what_the_code_names() -> None:
    page = Path(__file__).parents[2] / "docs" / "scenarios.md"
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z_, +]+) \|", page.read_text(encoding="utf-8"), re.M)
    assert len(rows) >= 20
    for name, classes in rows:
        assert scenario(re.split(r"[+,] *", classes.replace(" ", ""))) == name
    assert {name for name in scenarios() if name.startswith(("single-", "multi-"))} <= {
        name for name, _ in rows
    }


def test_all_orders_of_all_classes_agree() -> None:
    assert len({scenario(order) for order in permutations(CLASSES[:5])}) == 1
