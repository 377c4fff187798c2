"""Real faces through the real nets and the real rules: the right pairs, and no two people as one.

The whole of it, with every photograph, is ``make bench-face-pairs``.
"""

from __future__ import annotations

import pytest
from face_gallery import CLIPS, GROUP, LISTED, MAN_CLIP, PORTRAITS, Gallery, build

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
