"""What was not measured anew is read from the views: the same rows, or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2v.datapipe import views
from s2v.datapipe.base import stored
from s2v.datapipe.base.stored import StoredTable, StoredTableError, write_table
from s2v.datapipe.engine.stage import StageRun
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.steps import Steps
from s2v.datapipe.views import STATE, stamp, standing, write_views

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, changed
from synthetic_tables import film_world

OUTCOMES = ("clips", "boxes", "faces", "subjects", "pairs", "samples", "sample_reasons")


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return film_world().tables()


@pytest.fixture(scope="module")
def selection(tables: dict[str, pa.Table]) -> Selection:
    return select(tables, DEFAULT)


@pytest.fixture
def run(tables: dict[str, pa.Table], selection: Selection, tmp_path: Path) -> Path:
    write_views(tmp_path, tables, selection, measured=tables, stamped="now", digest="these")
    return tmp_path


def test_selecting_from_the_views_is_selecting_from_what_was_measured(
    tables: dict[str, pa.Table], selection: Selection, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_VECTORS", 5)  # several row groups, as of a large run
    monkeypatch.setattr(stored, "_PLAIN", 7)
    monkeypatch.setattr("s2v.datapipe.pair.chunks.CLIPS", 3)
    (run / STATE).unlink()
    write_views(run, tables, selection, measured=tables, stamped="now", digest="these")
    found = standing(run, "now")
    assert found is not None
    assert found.digest == "these"
    assert sorted(found.tables) == sorted(tables)
    stored_ones = [n for n, table in found.tables.items() if isinstance(table, StoredTable)]
    assert {"embeddings", "faces", "frames", "masks"} <= set(stored_ones)
    again = select(found.tables, DEFAULT)
    for name in OUTCOMES:
        assert getattr(again, name).equals(getattr(selection, name)), name
    assert check(found.tables, again, DEFAULT) == check(tables, selection, DEFAULT)


def test_selecting_again_reads_no_vector_and_no_mask(
    tables: dict[str, pa.Table], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = standing(run, "now")
    assert found is not None
    select(found.tables, DEFAULT, steps=Steps(run / "select", found.digest))
    read: set[tuple[str, str]] = set()
    plain = StoredTable._read

    def noted(self: StoredTable, groups: Any, columns: Any) -> pa.Table:
        read.update((self._path.stem, name) for name in columns)
        return plain(self, groups, columns)

    monkeypatch.setattr(StoredTable, "_read", noted)
    chosen = changed(face={"lower": 0.55}, pair={"crop_bits": 12})
    again = select(found.tables, chosen, steps=Steps(run / "select", found.digest))
    report = check(found.tables, again, chosen, measured_is_sound=found.sound)
    assert report == check(tables, select(tables, chosen), chosen)
    heavy = {"subject", "background", "embedding", "rle", "box", "phash"}
    assert not {(table, name) for table, name in read if name in heavy}
    assert read  # something was counted


def test_only_tables_that_changed_are_written(tables: dict[str, pa.Table], run: Path) -> None:
    files = {path.name: path.stat().st_ino for path in (run / "tables").iterdir()}
    found = standing(run, "now")
    assert found is not None
    same = select(found.tables, DEFAULT)
    about: dict[str, Any] = {"measured": found.tables, "stamped": "now", "digest": "these"}
    assert write_views(run, found.tables, same, **about) == ()
    other = select(found.tables, changed(pair={"min_gap_seconds": 60}))
    written = write_views(run, found.tables, other, **about)
    assert "pairs" in written
    assert not {"clips", "frames", "masks", "embeddings", "faces"} & set(written)
    now = {path.name: path.stat().st_ino for path in (run / "tables").iterdir()}
    assert {name for name in files if files[name] != now[name]} == {f"{n}.parquet" for n in written}
    assert pq.read_table(run / "tables" / "pairs.parquet").equals(other.pairs)
    assert standing(run, "now") is not None


def test_rows_that_verifying_and_cutting_add_are_not_taken_for_measured(
    tables: dict[str, pa.Table], selection: Selection, tmp_path: Path
) -> None:
    row = {
        "id": "clip", "stage": "cut", "unit": "clip", "error": "e", "message": "m", "retry": "r",
    }  # fmt: skip
    extra = pa.Table.from_pylist([row], schema=tables["quarantine"].schema)
    more = {**tables, "quarantine": pa.concat_tables([tables["quarantine"], extra])}
    write_views(tmp_path, more, selection, measured=tables, stamped="now", digest="these")
    found = standing(tmp_path, "now")
    assert found is not None
    assert found.tables["quarantine"].equals(tables["quarantine"])
    view = pq.read_table(tmp_path / "tables" / "quarantine.parquet")
    assert view.num_rows == tables["quarantine"].num_rows + 1


@pytest.mark.parametrize("name", ["clips.parquet", "embeddings.parquet", "frames.parquet"])
@pytest.mark.parametrize("how", ["gone", "other", "older"])
def test_views_that_were_touched_are_not_read(run: Path, name: str, how: str) -> None:
    path = run / "tables" / name
    if how == "gone":
        path.unlink()
    elif how == "other":
        pq.write_table(pq.read_table(path).slice(1), path)
    else:  # a copy brought back, of the same size
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    assert standing(run, "now") is None


def test_nothing_stands_under_another_stamp_or_a_damaged_state(run: Path) -> None:
    assert standing(run, "later") is None
    said = json.loads((run / STATE).read_text())
    for damage in ("", "[]", "{", json.dumps({**said, "growing": {}})):
        (run / STATE).write_text(damage)
        assert standing(run, "now") is None
    (run / STATE).write_text(json.dumps(said))
    (run / "select" / "measured-quarantine.parquet").write_bytes(b"PAR1")
    assert standing(run, "now") is None


def plan(fingerprint: str) -> dict[str, Any]:
    return {"caption": StageRun(None, fingerprint)}  # type: ignore[arg-type]  # only its name


def test_the_stamp_follows_commits_sources_settings_fingerprints_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "measure" / "caption-abc"
    place.mkdir(parents=True)
    (place / "unit.000.json").write_text("{}")
    sources = [{"video_id": "a", "licence": "CC0"}]
    settings = {"gates": {"max_black": 0.5}, "select": {"salt": "a"}}
    seen = [stamp(tmp_path, settings, plan("abc"), sources)]

    def fresh(*given: Any) -> None:
        new = stamp(tmp_path, *given)
        assert new not in seen
        seen.append(new)

    assert stamp(tmp_path, {**settings, "select": {"salt": "b"}}, plan("abc"), sources) == seen[0]
    (place / "unit.000.captions.parquet").write_text("a part alone is no commit")
    assert stamp(tmp_path, settings, plan("abc"), sources) == seen[0]
    fresh(settings, plan("other"), sources)
    fresh({**settings, "gates": {"max_black": 0.4}}, plan("abc"), sources)
    fresh(settings, plan("abc"), [{"video_id": "a", "licence": "unverified"}])
    (place / "unit.001.json").write_text("{}")
    fresh(settings, plan("abc"), sources)
    (place / "unit.001.json").unlink()
    assert stamp(tmp_path, settings, plan("abc"), sources) == seen[0]
    (place / "unit.000.json").unlink()
    (place / "unit.000.json").write_text("{ }")
    fresh(settings, plan("abc"), sources)
    monkeypatch.setattr(views, "code_digest", lambda: "other code")
    fresh(settings, plan("abc"), sources)


def test_a_stored_table_gives_the_rows_of_the_table(
    tables: dict[str, pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_VECTORS", 4)
    monkeypatch.setattr(stored, "_PLAIN", 3)
    for name, table in tables.items():
        path = tmp_path / f"{name}.parquet"
        write_table(table, path)
        found = StoredTable(path)
        assert found.schema.equals(table.schema), name
        assert (found.num_rows, len(found)) == (table.num_rows, table.num_rows)
        assert found.whole().equals(table), name
        names = table.schema.names
        assert found.select(names[1::-1]).equals(table.select(names[1::-1])), name
        assert found[names[0]].equals(table[names[0]])
        for begin, count in ((0, 2), (3, 9), (5, None), (10**6, 3), (0, 0)):
            assert found.slice(begin, count).equals(table.slice(begin, count)), (name, begin)
        if table.num_rows:
            rows = np.random.default_rng(0).integers(0, table.num_rows, 12)
            assert found.take(pa.array(rows)).equals(table.take(pa.array(rows))), name
        assert found.filter(pa.array([True] * table.num_rows, pa.bool_())).equals(table)
    with pytest.raises(KeyError, match="no column 'colour'"):
        found.select(["colour"])


def test_spooled_vectors_are_the_tables_and_missing_ones_are_named(tmp_path: Path) -> None:
    rows = [[float(n), 1.0] for n in range(20)]
    column = pa.array(
        [None if n == 7 else row for n, row in enumerate(rows)], pa.list_(pa.float32())
    )
    write_table(pa.table({"v": column}), tmp_path / "t.parquet")
    table = StoredTable(tmp_path / "t.parquet")
    wanted = np.array([0, 3, 8, 19])
    np.testing.assert_array_equal(table.vectors("v", wanted), [rows[n] for n in wanted])
    assert table.valid("v").tolist() == [n != 7 for n in range(20)]
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]  # the spool has no name
    with pytest.raises(ValueError, match="not measured"):
        table.vectors("v", np.array([6, 7]))


def test_a_damaged_view_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(pa.table({"a": [f"row {n} of many" for n in range(3000)]}), path)
    table = StoredTable(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoredTableError, match=r"t\.parquet: .*delete it"):
        table.select(["a"])
    path.unlink()
    with pytest.raises(StoredTableError, match="delete it"):
        StoredTable(path)
