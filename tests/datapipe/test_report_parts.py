"""Charts, tables and marked captions, of whatever a caller or a stranger's caption holds."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_reader import Page

from s2v.datapipe.base.markup import Markup, element
from s2v.datapipe.report import charts
from s2v.datapipe.report.axes import ticks
from s2v.datapipe.report.sections import Series, Table, marked


@pytest.mark.parametrize("ys", [[math.nan], [math.inf], []])
def test_a_chart_of_nothing_is_an_error(ys: list[float]) -> None:
    with pytest.raises(ValueError, match="no series has a finite point"):
        charts.line_chart("Loss", "", [Series("a", range(len(ys)), ys)], "step", "loss")


def test_uneven_input_of_callers_is_named() -> None:
    with pytest.raises(ValueError, match="'loss': 2 x values, 1 y"):
        Series("loss", [1, 2], [1])
    with pytest.raises(ValueError, match="1 cells for columns"):
        Table(("a", "b"), [("only",)], title="t")


@given(
    st.text(max_size=40),
    st.lists(st.tuples(st.integers(-5, 45), st.integers(-5, 45), st.integers(0, 9)), max_size=5),
)
def test_marking_never_changes_the_words(caption: str, spans: list[tuple[int, int, int]]) -> None:
    made = str(marked(caption, spans))
    words = re.sub(r"<sup>\d+</sup>|</?mark[^>]*>", "", made)
    assert words == str(element("p", caption))[3:-4]
    assert made.count("<mark") == made.count("</mark>") <= len(spans)


@given(st.text())
def test_text_never_becomes_markup(value: str) -> None:
    made = Page(element("p", value, title=value))
    assert [tag for tag, _ in made.elements] == ["p"]
    assert isinstance(element("p", value), Markup)


@given(
    st.lists(st.floats(-1e3, 1e3), max_size=60),
    st.lists(st.floats(-1e3, 1e3), max_size=60),
    st.lists(st.floats(-1e3, 1e3), max_size=2),
)
def test_a_histogram_holds_every_value_and_shows_every_threshold(
    kept: list[float], dropped: list[float], bounds: list[float]
) -> None:
    bins = charts.histogram_bins(kept, dropped, bounds)
    if not kept + dropped:
        assert bins is None
        return
    assert bins is not None
    assert sum(bins.kept) == len(kept)
    assert sum(bins.dropped) == len(dropped)
    assert len(bins.edges) == len(bins.kept) + 1 <= 200
    slack = 1e-6 * (bins.edges[-1] - bins.edges[0])  # edges are rounded
    assert all(bins.edges[0] - slack <= mark <= bins.edges[-1] + slack for mark in bounds)
    drawn = charts.histogram("t", "d", bins, [("min", mark) for mark in bounds], "u")
    assert "nan" not in drawn


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_and_inside(low: float, span: float, about: int) -> None:
    found = ticks(low, low + span, about)
    assert len(found) <= about + 1
    assert all(low - 1e-6 * span - 1e-9 <= t <= low + span * (1 + 1e-6) + 1e-9 for t in found)
