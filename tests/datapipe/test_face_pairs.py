"""Real faces through the real nets and the real rules: the right pairs, and no two people as one.

The whole of it, with every photograph, is ``make bench-face-pairs``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from face_gallery import CLIPS, GROUP, LISTED, MAN_CLIP, PORTRAITS, Gallery, build
from report_run import write_about, write_tables

from s2v.datapipe.base import records
from s2v.datapipe.cli import main
from s2v.datapipe.pair.select import Selection

pytestmark = pytest.mark.assets


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return build(tmp_path_factory.mktemp("faces"), (*PORTRAITS, *CLIPS, GROUP))


def test_every_true_pair_of_people_is_found_and_their_copies_are_refused(
    gallery: Gallery,
) -> None:
    asked = [one for one in LISTED if {one[0], one[1]} <= gallery.media.keys()]
    assert len(asked) == 6
    for a, b, wanted in asked:
        rows = gallery.between(a, b)
        assert rows, (a, b)
        assert [row["accepted"] for row in rows] == [wanted == "valid"] * len(rows), (a, b, rows)


def test_no_two_people_are_taken_for_one(gallery: Gallery) -> None:
    different = [row for row in gallery.pairs() if row["expected"] == "different"]
    assert len(different) >= 45, "the search proposed them all"
    assert [row for row in different if row["accepted"]] == []
    # And each for what it is: by the face, not by luck of another rule alone.
    assert all("face_mismatch" in row["rules"] for row in different)


def test_a_photograph_of_somebody_pairs_with_the_clip_of_him_and_of_nobody_else(
    gallery: Gallery,
) -> None:
    man = [
        row
        for row in gallery.pairs()
        if MAN_CLIP.name in {gallery.medium(row[f"{side}_subject_id"]).name
                             for side in ("target", "reference")}
        and row["accepted"]
    ]  # fmt: skip
    (row,) = man
    assert gallery.between("man-photo", "man-clip") == [row]
    assert 0.5 <= row["face_similarity"] < 0.9


def test_an_audit_by_dlib_clears_the_true_pairs_and_finds_a_stranger(
    gallery: Gallery, tmp_path: Path
) -> None:
    """The run as it was selected, and one in which selection had taken Biden for Obama."""
    code, shares = audited(gallery, gallery.selection.pairs, tmp_path / "right")
    assert code == 0
    assert shares["wrong"]["judged"] == shares["copy"]["judged"] >= 8
    assert (shares["wrong"]["hits"], shares["copy"]["hits"]) == (0, 0)
    rows = gallery.selection.pairs.to_pylist()
    stranger = next(
        row
        for row in rows
        if {gallery.medium(row[f"{side}_subject_id"]).name for side in ("target", "reference")}
        == {"biden", "obama-2"}
    )
    stranger["accepted"] = True
    pairs = records.table("pairs", rows)
    code, shares = audited(gallery, pairs, tmp_path / "wrong")
    assert code == 1
    assert (shares["wrong"]["hits"], shares["copy"]["hits"]) == (1, 0)


def audited(gallery: Gallery, pairs: pa.Table, out: Path) -> tuple[int, dict[str, dict[str, int]]]:
    """Exit code of an audit with budgets of nothing, and the shares of people."""
    of = {**vars(gallery.selection), "pairs": pairs}
    write_tables(gallery.folder, gallery.world.tables(), Selection(**of))
    write_about(gallery.folder)
    told = ("--of", "accepted", "--max-wrong", "0", "--max-copies", "0", "--quiet")
    code = main(["audit", str(gallery.folder), "--out", str(out), *told])
    found = json.loads((out / "audit.json").read_text())["estimates"]
    return code, {one["fault"]: one["share"] for one in found}
