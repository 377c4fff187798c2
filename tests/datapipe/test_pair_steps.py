"""Steps of the selection that are kept: the same bytes, no search again, nothing stale."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.base.exclusions import Exclusion
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.pair import steps as steps_module
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.pair.steps import Steps

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, accepted, changed
from synthetic_tables import World, film_world

TABLES = ("clips", "boxes", "faces", "subjects", "pairs", "samples")
FILES = ("boxes", "clips", "face-vectors", "faces", "found", "links", "near", "passing", "subjects")


@pytest.fixture(scope="module")
def world() -> World:
    return film_world()


@pytest.fixture(scope="module")
def tables(world: World) -> dict[str, pa.Table]:
    return world.tables()


@pytest.fixture(scope="module")
def kept(tables: dict[str, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the steps of the default settings."""
    folder = tmp_path_factory.mktemp("run") / "select"
    select(tables, DEFAULT, steps=Steps(folder, "measured"))
    return folder


def same(one: Selection, other: Selection) -> bool:
    return all(getattr(one, name).equals(getattr(other, name)) for name in TABLES)


def bank(name: str, **values: Any) -> dict[str, Any]:
    return {name: getattr(DEFAULT.pair, name).model_dump() | values}


#: Changes of thresholds by the first step that must be done again.
CHANGES: dict[str, list[SelectSettings]] = {
    "nothing": [
        DEFAULT,
        changed(pair=bank("creature", lower=0.82, upper=0.9)),
        changed(
            pair={**bank("thing", max_background=None), "crop_bits": 12, "min_gap_seconds": 30}
        ),
        changed(face={"lower": 0.55, "upper": 0.8, "different": 0.3}),
        changed(retrieval={"candidates": 2}),
        changed(split={"heldout_share": 0.4, "salt": "b"}, sample={"max_uses": 1}),
    ],
    "found": [
        changed(pair=bank("creature", lower=0.4)),
        changed(face={"lower": 0.2, "different": 0.1}),
        changed(retrieval={"overfetch": 9}),
        changed(retrieval={"floor_margin": None}),
        changed(pair=bank("creature", across_sources="yes")),
        changed(face={"face_weight": 0.8}),
    ],
    "subjects": [
        changed(detection={"min_score": 0.85}),
        changed(face={"max_yaw": 2.0}),
        changed(phrase={"several_boxes": "best"}),
    ],
    "clips": [
        changed(clip={"max_per_concept": 2}),
        changed(people={"minors": "stated none"}),
        changed(pair={"frame_bits": 2}),
    ],
}


@pytest.mark.parametrize(
    ("first", "chosen"), [(first, one) for first, many in CHANGES.items() for one in many]
)
def test_what_is_kept_changes_no_byte_and_is_not_made_again(
    tables: dict[str, pa.Table],
    kept: Path,
    tmp_path: Path,
    first: str,
    chosen: SelectSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(kept, tmp_path / "select"))
    alone = select(tables, chosen)
    done: list[str] = []
    for step, name in (
        ("clips", "_clips"),
        ("subjects", "_subjects"),
        ("found", "find_candidates"),
    ):
        made = getattr(steps_module, name)

        def noted(*args: Any, step: str = step, made: Any = made) -> Any:
            done.append(step)
            return made(*args)

        monkeypatch.setattr(steps_module, name, noted)
    assert same(select(tables, chosen, steps=Steps(folder, "measured")), alone)
    assert (done or ["nothing"])[0] == first
    done.clear()
    assert same(select(tables, chosen, steps=Steps(folder, "measured")), alone)
    assert done == []


def test_other_rows_find_nothing_kept(tables: dict[str, pa.Table], kept: Path) -> None:
    world = film_world()
    for row in world.rows["clips"]:
        if row["clip_id"].startswith("indoors"):
            row["motion"] = 0.0
    other = world.tables()
    assert same(select(other, DEFAULT, steps=Steps(kept, "other rows")), select(other, DEFAULT))
    assert same(select(tables, DEFAULT, steps=Steps(kept, "measured")), select(tables, DEFAULT))


def test_every_exclusion_reaches_what_is_kept(tables: dict[str, pa.Table], kept: Path) -> None:
    whole = select(tables, DEFAULT, steps=Steps(kept, "measured"))
    subject, _ = next(iter(sorted(accepted(whole))))
    rows = {row["subject_id"]: row for row in whole.subjects.to_pylist()}
    keys = {
        "video_id": rows[subject]["video_id"],
        "clip_id": rows[subject]["clip_id"],
        "subject_id": subject,
        "identity_id": rows[subject]["identity_id"],
        "sample_id": whole.samples["sample_id"][0].as_py(),
    }
    for key_type, key in keys.items():
        listed = [
            Exclusion.model_validate(
                {"key_type": key_type, "key": key, "reason": "asked", "by": "me", "when": "now"}
            )
        ]
        found = select(tables, DEFAULT, listed, steps=Steps(kept, "measured"))
        assert same(found, select(tables, DEFAULT, listed)), key_type
        assert not same(found, whole), key_type
    assert same(select(tables, DEFAULT, steps=Steps(kept, "measured")), whole)


@settings(max_examples=9, deadline=None, derandomize=True)
@given(name=st.sampled_from(FILES), damage=st.sampled_from(["gone", "short", "flipped"]))
def test_files_that_are_gone_or_damaged_are_made_again(name: str, damage: str) -> None:
    tables = film_world().tables()
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at) / "select"
        wanted = select(tables, DEFAULT, steps=Steps(folder, "measured"))
        (path,) = (p for p in folder.iterdir() if p.name.rsplit("-", 1)[0] == name)
        data = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
        elif damage == "short":
            path.write_bytes(data[: len(data) // 2])
        else:
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        assert same(select(tables, DEFAULT, steps=Steps(folder, "measured")), wanted)


def test_a_folder_does_not_grow_with_every_threshold_tried(
    tables: dict[str, pa.Table], tmp_path: Path
) -> None:
    for weight in np.linspace(0.1, 0.9, 7):
        chosen = changed(face={"face_weight": float(weight)})
        select(tables, chosen, steps=Steps(tmp_path, "measured"))
    names = [path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir()]
    assert {name: names.count(name) for name in names} == {
        name: 4 if name in {"face-vectors", "found", "links"} else 1 for name in FILES
    }


def test_results_are_not_kept_without_knowing_of_which_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digest of the tables"):
        Steps(tmp_path)


def test_the_digest_of_the_rows_follows_every_commit_and_nothing_else(tmp_path: Path) -> None:
    store = StageStore(tmp_path, "caption", "abc")
    row = {"clip_id": "a", "caption": "A dog.", "attempts": 1}
    store.commit("unit", "clip_id", ["a"], {"captions": [row]}, cpu_seconds=1.0)
    first = StageStore.listed(tmp_path, "caption", "abc").digest(["unit"])
    assert StageStore.listed(tmp_path, "caption", "abc").digest(["unit"]) == first
    assert StageStore.listed(tmp_path, "caption", "other").digest(["unit"]) != first
    later = tmp_path / "later"
    again = StageStore(later, "caption", "abc")
    again.commit("unit", "clip_id", ["a"], {"captions": [row]}, cpu_seconds=9.0)
    assert again.digest(["unit"]) == first, "how long it took is no part of what was measured"
    again.commit("unit", "clip_id", ["a"], {"captions": [row | {"caption": "A cat."}]}, 1.0)
    assert again.digest(["unit"]) != first
