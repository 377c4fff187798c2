"""What stands beside the shards is right: figures that add up, Croissant that validates."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from xml.etree import ElementTree

import pytest
from synthetic_tables import film_world
from written_run import WritableRun

from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.write.figures import Figure
from s2v.datapipe.write.write import Written

SVG = "{http://www.w3.org/2000/svg}"


def bars(path: Path) -> dict[str, int]:
    """Labels and counts as the picture shows them."""
    texts = [e.text or "" for e in ElementTree.parse(path).iter(f"{SVG}text")][2:]  # noqa: S314
    return {
        label: int(count.split()[0]) for label, count in zip(texts[::2], texts[1::2], strict=True)
    }


def test_the_card_shows_every_figure_and_they_count_what_is_written(film_shards: Written) -> None:
    folder = film_shards.folder
    card = (folder / "README.md").read_text()
    metas = [sample.meta() for sample in ShardIndex.open(folder)]
    found = {path.stem: bars(path) for path in sorted((folder / "figures").iterdir())}
    assert len(found) == 7
    for name in found:
        assert f"](figures/{name}.svg)" in card
    several = [sum(len(m.refs) == n for m in metas) for n in (1, 2)]
    assert found["objects"] == {"1 subject": several[0], "2 subjects": several[1]}
    classes = [ref.category for m in metas for ref in m.refs]
    assert found["classes"] == {one: classes.count(one) for one in set(classes)}
    pairs = [m.pair_type for m in metas]
    assert found["pairs"] == {one: pairs.count(one) for one in set(pairs)}
    scenarios = [m.scenario for m in metas]
    assert found["scenarios"] == {one: scenarios.count(one) for one in set(scenarios)}
    for name in ("duration", "resolution"):
        assert sum(found[name].values()) == len(metas)
    assert sum(found["motion"].values()) == sum(m.scores.motion is not None for m in metas)


def test_no_name_in_a_figure_becomes_markup(tmp_path: Path) -> None:
    hostile = Figure("x", "<script>&", (('"><g onload="x"/>\x00\x1b', 3),), "samples")
    path = tmp_path / "x.svg"
    path.write_text(hostile.svg())
    tree = ElementTree.parse(path)  # noqa: S314
    assert {e.tag.removeprefix(SVG) for e in tree.iter()} == {
        *("svg", "title", "desc", "style", "text", "path", "rect"),
    }
    assert bars(path) == {'"><g onload="x"/>  ': 3}


def test_an_empty_figure_is_still_a_picture() -> None:
    ElementTree.fromstring(Figure("x", "X", (), "samples").svg())  # noqa: S314


def test_the_card_names_the_shards_as_brace_patterns(film_shards: Written) -> None:
    import braceexpand

    card = (film_shards.folder / "README.md").read_text()
    line = next(one for one in card.splitlines() if one.startswith("`shards` above may be"))
    patterns = line.split("`")[3::2]
    named = [name for pattern in patterns for name in braceexpand.braceexpand(pattern)]
    assert named == list(film_shards.shards)


@pytest.mark.parametrize("credit", [None, 'A <b>film</b> by "us"'])
def test_mlcroissant_finds_no_error_and_reads_the_records(
    tmp_path: Path, clip_file: Path, caplog: pytest.LogCaptureFixture, credit: str | None
) -> None:
    import mlcroissant

    world = film_world()
    for row in world.rows["sources"]:
        row["credit"] = credit
    world.store_frames(tmp_path)
    run = WritableRun(tmp_path, world, {row["clip_id"]: clip_file for row in world.rows["clips"]})
    folder = run.write(tmp_path / "out").folder
    with caplog.at_level(logging.WARNING):
        data = mlcroissant.Dataset(str(folder / "croissant.json"))
    assert not data.metadata.ctx.issues.errors
    # A date would be that of the writing: the same samples would no longer give the same bytes.
    warnings = set(data.metadata.ctx.issues.warnings)
    assert all("datePublished" in one for one in warnings)
    index = ShardIndex.open(folder)
    keys = [row["samples/sample_id"].decode() for row in data.records("samples")]
    assert keys == [sample.id for sample in index]
    splits = [row["splits/name"] for row in data.records("splits")]
    assert splits == sorted({s.row["part"] for s in index}, key=("train", "val", "test").index)
    parts = [row["samples/part"].decode() for row in data.records("samples")]
    assert parts == [sample.row["part"] for sample in index]
    assert set(parts) == set(splits)
    raw = json.loads((folder / "croissant.json").read_text())
    assert "http://mlcommons.org/croissant/RAI/1.0" in raw["conformsTo"]
    assert any(one.startswith("consent") for one in raw["rai:personalSensitiveInformation"])
    assert raw["license"] == ["CC-BY-4.0"]
    assert (credit or "no source states a credit") in raw["citeAs"]
