"""A slip in the published rows would put a wrong figure into every report."""

from typing import Any

import pytest

from s2v.evals import opens2v, reference

ROWS = reference.published()


def test_the_papers_tables_are_there_with_their_figures() -> None:
    found = {
        (r.model, r.metric): r.value
        for r in ROWS
        if r.source.startswith("Phantom ICCV") and r.table in ("Table 1", "Table 2")
    }
    assert found["Phantom-ID", "facesim_arc"] == 0.581
    assert found["Phantom-ID", "viclip_t"] == 24.12
    assert found["ConsisID", "facesim_cur"] == 0.417
    assert found["Kling1.6", "dino_i_seg"] == 0.569
    assert found["Phantom-IP", "clip_i_seg"] == 0.731
    assert len(found) == 32


def test_no_figure_is_given_twice() -> None:
    keys = [(r.source, r.table, r.split, r.model, r.metric) for r in ROWS]
    assert len(set(keys)) == len(keys) == 734


def test_values_lie_in_their_units_range() -> None:
    ranges = {"cosine": (0, 1), "0-1": (0, 1), "%": (0, 100), "% normalised": (0, 100)}
    ranges |= {"0-100": (0, 100), "cosine x100": (15, 40), "clip x100": (15, 40)}
    checked = [r for r in ROWS if r.unit in ranges]
    assert len(checked) > 690
    outside = [r for r in checked if not ranges[r.unit][0] <= r.value <= ranges[r.unit][1]]
    assert outside == []


def test_only_distances_are_better_when_lower() -> None:
    assert {r.metric for r in ROWS if r.direction == "lower"} == {"face_fid"}


def test_every_leaderboard_total_follows_from_its_parts_but_the_one_known_slip() -> None:
    models: dict[tuple[str, str, str], dict[str, float]] = {}
    for r in ROWS:
        if r.source.startswith("OpenS2V-Eval leaderboard"):
            models.setdefault((r.source, r.split, r.model), {})[r.metric] = r.value
    off = []
    for key, parts in models.items():
        version: Any = key[0][-4:]
        found = opens2v.total(parts, version, "open" if "NexusScore" in parts else "human")
        if abs(found - parts["TotalScore"]) > 0.02:
            off.append(key[2])
    assert len(models) == 86
    assert off == ["EchoVideo"]


def test_related_rows_leave_out_ablations_and_leaderboards() -> None:
    assert {r.model for r in reference.related("face")} == {"ConsisID", "Hailuo-ID", "Phantom-ID"}
    assert len(reference.related("subject")) == 16
    assert {r.source for r in reference.related("text")} == {"Phantom ICCV2025 / arXiv 2502.11079"}
    assert reference.related("no such family") == ()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("s,t,x,m,k,nan,u,higher,", "nan"),
        ("s,t,x,m,k,,u,higher,", "value ''"),
        ("s,t,x,m,k,1,u,up,", "direction 'up'"),
    ],
)
def test_a_broken_row_is_named(line: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"line 2: .*{what}"):
        reference.parse(",".join(reference.COLUMNS) + "\n" + line + "\n")


def test_a_renamed_column_is_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        reference.parse("source,value\na,1\n")
