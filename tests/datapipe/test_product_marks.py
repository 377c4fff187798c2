"""Products are paired only with a logo or text on them, and nothing else has to have one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from synthetic_tables import World, film_world
from vlm_double import double, made, picture, says

from s2v.datapipe.backends import registry
from s2v.datapipe.engine.runner import UnitRunner
from s2v.datapipe.engine.stage import StageRun
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.measure.brand import MarkStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.segment import SegmentSettings
from s2v.datapipe.pair.marks import letters
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.roles import Check, Image, Phrase, TextLine, TextReader

LOOSE = SelectSettings.model_validate({"detection": {"min_side": 64}})
RIGHT = {"complete": True, "specific": True, "matches": True, "match": 8}


def box_of(text: str, width: int = 320, height: int = 240) -> Image:
    """A blue carton with white letters on a grey table."""
    image = np.full((height, width, 3), 190, np.uint8)
    cv2.rectangle(image, (30, 30), (width - 30, height - 30), (30, 80, 150), -1)
    cv2.putText(image, text, (50, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255,) * 3, 3)
    return image


@pytest.fixture(scope="module")
def reader() -> TextReader:
    model: Any = registry.factory(registry.BACKENDS["text_reader"]["rapidocr"])({}, "here", {})
    model.load()
    found: TextReader = model
    return found


@pytest.mark.parametrize("text", ["NORDWIND", "Cola 330 ml"])
def test_what_stands_on_a_carton_is_read(reader: TextReader, text: str) -> None:
    (line,) = reader.read(box_of(text))
    assert line.text.replace(" ", "").lower() == text.replace(" ", "").lower()
    assert line.score > 0.8
    x0, y0, x1, y1 = line.box
    assert 30 <= x0 < x1 <= 320
    assert 60 < y0 < y1 < 160


def test_nothing_is_read_where_nothing_is_written(reader: TextReader) -> None:
    assert reader.read(box_of("")) == []
    assert reader.read(np.full((40, 9, 3), 7, np.uint8)) == []


def test_a_name_as_large_as_the_thing_is_read(reader: TextReader) -> None:
    """In a frame such large regions are smooth bodies; on a thing's crop they are its name."""
    wide = np.full((80, 300, 3), 20, np.uint8)
    cv2.putText(wide, "ACME", (20, 65), cv2.FONT_HERSHEY_SIMPLEX, 2.6, (255,) * 3, 6)
    assert [line.text for line in reader.read(wide)] == ["ACME"]


def shop(run: Path) -> World:
    """The known world; cups are products, of which one video's have a name on them."""
    world = film_world()
    for row in world.rows["phrases"]:
        row["class"] = {"thing": "product", "person": "human"}.get(row["bank"], "animal")
    world.finish()
    world.rows["marks"].clear()
    for row in world.rows["detections"]:
        if row["clip_id"].startswith("shop"):
            x0, y0, x1, y1 = (int(v) for v in row["box"])
            part = world.pictures[row["frame_id"]][y0:y1, x0:x1]
            part[...] = cv2.resize(box_of("NORD", 200, 160), (x1 - x0, y1 - y0))
    world.store_frames(run)
    return world


def test_only_products_are_looked_at_and_their_text_is_stored(
    tmp_path: Path, reader: TextReader
) -> None:
    world = shop(tmp_path)
    stage = MarkStage(reader, SegmentSettings(), GateSettings())
    names = ("clips", "frames", "overlays", "phrases", "detections", "quality")
    clips = sorted(row["clip_id"] for row in world.rows["clips"])
    tables = {name: world.tables()[name].to_pylist() for name in names}
    unit = {"unit": "u", "key": "clip_id", "ids": clips, "tables": tables}
    UnitRunner(str(tmp_path), [StageRun(stage, "f")]).measure(unit)
    rows = StageStore(tmp_path, "marks", "f").rows("u")["marks"]
    products = {r["subject_id"] for r in world.rows["phrases"] if r["class"] == "product"}
    subject = {r["detection_id"]: r["subject_id"] for r in world.rows["detections"]}
    assert {subject[row["detection_id"]] for row in rows} == products
    named = [row for row in rows if row["clip_id"].startswith("shop")]
    assert named
    for row in named:
        assert row["text"] == "NORD"
        assert row["text_score"] > 0.6
        assert 0.02 < row["text_share"] < 0.6
    assert all(letters(row["text"] or "") < 3 for row in rows if row not in named)
    assert all(row["reader"].startswith("ppocr-v6-det") for row in rows)


def test_without_a_reader_nothing_is_read_or_loaded(tmp_path: Path) -> None:
    stage = MarkStage(None, SegmentSettings(), GateSettings())
    world = shop(tmp_path)
    clips = [row["clip_id"] for row in world.rows["clips"]]
    unit = {"unit": "u", "key": "clip_id", "ids": clips, "tables": {}}
    UnitRunner(str(tmp_path), [StageRun(stage, "f")]).measure(unit)
    assert StageStore(tmp_path, "marks", "f").rows("u")["marks"] == []


class Counted:
    """A reader that counts how often it is loaded."""

    model_id = "counted"

    def __init__(self) -> None:
        self.loads = 0

    def load(self) -> None:
        self.loads += 1

    def read(self, image: Image) -> list[TextLine]:
        return []


@pytest.mark.parametrize("products", [True, False])
def test_a_run_without_products_never_loads_the_reader(tmp_path: Path, products: bool) -> None:
    world, reader = shop(tmp_path), Counted()
    for row in world.rows["phrases"]:
        if row["class"] == "product" and not products:
            row["class"] = "clothes"
    names = ("clips", "frames", "overlays", "phrases", "detections", "quality")
    tables = {name: world.tables()[name].to_pylist() for name in names}
    runner = UnitRunner(
        str(tmp_path), [StageRun(MarkStage(reader, SegmentSettings(), GateSettings()), "f")]
    )
    for row in world.rows["clips"]:
        clip = row["clip_id"]
        mine = {n: [r for r in rows if r["clip_id"] == clip] for n, rows in tables.items()}
        runner.measure({"unit": clip, "key": "clip_id", "ids": [clip], "tables": mine})
    assert reader.loads == products


# The rule


def cups(world: World, **pair: Any) -> list[dict[str, Any]]:
    settings = SelectSettings.model_validate({"detection": {"min_side": 64}, "pair": pair})
    found = select(world.tables(), settings).pairs.to_pylist()
    return [row for row in found if row["bank"] == "thing"]


def marked(world: World, text: str | None, score: float | None = 0.9, only: str = "") -> World:
    products = {r["subject_id"] for r in world.rows["phrases"] if r["class"] == "product"}
    for row in world.rows["detections"]:
        if row["subject_id"] in products and row["clip_id"].startswith(only):
            ids = {name: row[name] for name in ("detection_id", "clip_id")}
            world.rows["marks"].append({**ids, "text": text, "text_score": score})
    return world


def test_products_that_nothing_tells_apart_are_not_paired(tmp_path: Path) -> None:
    assert any(row["accepted"] for row in cups(marked(shop(tmp_path), "NORD")))
    for world in (
        shop(tmp_path),  # not looked at
        marked(shop(tmp_path), None, None),  # nothing there
        marked(shop(tmp_path), "NO"),  # no name
        marked(shop(tmp_path), "NORD", 0.3),  # hardly read
        marked(shop(tmp_path), "NORD", only="shop"),  # on one side
    ):
        found = cups(world)
        alike = [row for row in found if "below_lower" not in row["rules"]]
        assert alike
        assert all("no_mark" in row["rules"] for row in alike)
        assert not any(row["accepted"] for row in found)


def test_the_rule_can_be_switched_off_and_moved(tmp_path: Path) -> None:
    off = {"require_mark": False}
    assert any(row["accepted"] for row in cups(shop(tmp_path), thing=off))
    short = marked(shop(tmp_path), "NO", 0.4)
    assert any(row["accepted"] for row in cups(short, mark_letters=2, mark_score=0.4))


def test_what_is_no_product_needs_no_mark(tmp_path: Path) -> None:
    world = shop(tmp_path)
    for row in world.rows["phrases"]:
        if row["class"] == "product":
            row["class"] = "clothes"
    assert any(row["accepted"] for row in cups(world))
    pairs = select(shop(tmp_path).tables(), LOOSE).pairs.to_pylist()
    assert {row["bank"] for row in pairs if "no_mark" in row["rules"]} == {"thing"}


@pytest.mark.parametrize(("said", "read", "paired"), [(True, None, True), (False, "NORD", False)])
def test_the_checkers_word_counts_before_what_was_read(
    tmp_path: Path, said: bool, read: str | None, paired: bool
) -> None:
    world = marked(shop(tmp_path), read, None if read is None else 0.9)
    products = {r["subject_id"] for r in world.rows["phrases"] if r["class"] == "product"}
    for row in world.rows["detections"]:
        ids = {name: row[name] for name in ("detection_id", "clip_id")}
        mark = said if row["subject_id"] in products else None
        yes = dict.fromkeys(("complete", "specific", "matches"), True)
        world.rows["checks"].append({**ids, **yes, "mark": mark})
    assert any(row["accepted"] for row in cups(world)) == paired


def test_short_names_of_wide_letters_are_names() -> None:
    assert letters("A-1") == 2
    assert letters("小米") == 4
    assert letters("大") == 2


# The checker


def check(answer: dict[str, Any], category: str) -> tuple[Check, dict[str, Any]]:
    phrase = Phrase("a red box", 0, 9, "box", "thing", category=category)
    with double(says(json.dumps(answer))) as server:
        found = made("checker", server).check(picture(), (50.0, 50.0, 200.0, 150.0), phrase)
    assert len(server.requests) == 1, "one request, whatever is asked"
    return found, server.requests[0]["response_format"]["json_schema"]


@pytest.mark.parametrize("mark", [True, False])
def test_the_checker_is_asked_for_a_products_mark(mark: bool) -> None:
    found, schema = check({**RIGHT, "mark": mark}, "product")
    assert found == Check(True, True, True, 0.8, mark)
    assert schema["name"] == "check_product"
    assert "mark" in schema["schema"]["required"]


@pytest.mark.parametrize("category", ["human", "clothes", "other"])
def test_nothing_else_is_asked_for_a_mark(category: str) -> None:
    found, schema = check(RIGHT, category)
    assert found.mark is None
    assert schema["name"] == "check"
    assert "mark" not in schema["schema"]["properties"]


def test_a_users_prompt_for_products_is_another_stage(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('id = "mine"\nversion = 1\nuser = "{phrase}?"\n')
    far = "http://127.0.0.1:1/v1"
    prompts = {made("checker", far, **other).prompt_sha256 for other in (
        {}, {"prompt": str(own)}, {"product_prompt": str(own)},
    )}  # fmt: skip
    assert len(prompts) == 3
