"""Whether people may be used at all: what sources state, and who was seen in a clip.

Phantom-Data speaks of a face policy in its appendix and describes none; these rules are ours. A
source says ``minors`` (none, possible, unverified) and ``face_policy`` (allowed, no faces,
unverified). What a source states is honoured; *unverified* passes unless the rules ask for a
statement, and is counted, so that nobody takes silence for consent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from s2v.datapipe.pair.rows import Row, Tables, by, read
from s2v.datapipe.pair.settings import PeopleRules

NO_FACES: Final = "no faces"
UNVERIFIED: Final = "unverified"


class People:
    """What is known of the people of every clip."""

    def __init__(self, tables: Tables, rules: PeopleRules) -> None:
        self._rules = rules
        self._sources = by(read(tables, "sources"), "video_id")
        self._people = by(read(tables, "people"), "clip_id")
        self._with_faces = {row["clip_id"] for row in read(tables, "faces")}

    def clip_fails(self, clip: Row) -> Iterator[str]:
        """Names of the policies that forbid a whole clip, in order.

        Faces of any score count: a policy is not a matter of a detector's threshold.
        """
        source = self._sources.get(clip["video_id"], {})
        minors = source.get("minors") or UNVERIFIED
        if self._rules.minors != "any" and minors == "possible":
            yield "minors possible"
        if self._rules.minors == "stated none" and minors != "none":
            yield "minors not ruled out"
        if self._faceless(source) and clip["clip_id"] in self._with_faces:
            yield "face policy"

    def subject_fails(self, clip: Row) -> Iterator[str]:
        """Names of the rules that forbid the people of a clip, its things and animals stay."""
        rules = self._rules
        if self._faceless(self._sources.get(clip["video_id"], {})):
            yield "face policy"
        if clip["kind"] == "image":
            return  # one frame: nothing changes on it
        row = self._people.get(clip["clip_id"])
        if rules.min_count_stable is not None:
            if row is None:
                yield "not measured: count_stable"
            elif row["count_stable"] < rules.min_count_stable:
                yield "their number changes"
        # Null: on fewer than two frames a face is seen, as of people from behind.
        if (
            rules.min_same_person is not None
            and row is not None
            and row["persons"] == 1
            and row["same_person"] is not None
            and row["same_person"] < rules.min_same_person
        ):
            yield "another person on some frames"

    def _faceless(self, source: Row) -> bool:
        policy = source.get("face_policy") or UNVERIFIED
        if self._rules.face_policy == "stated allowed":
            return policy != "allowed"
        return policy == NO_FACES


def statements(sources: Iterable[Row]) -> dict[str, dict[str, int]]:
    """How many sources state what, for cards and reports.

    Args:
        sources: rows of SOURCES, for instance those whose clips were written.

    Returns:
        ``{"minors": {"unverified": 3, ...}, "face_policy": {...}, "consent": {...}}``, words
        sorted; a null is ``unverified``.
    """
    columns = ("minors", "face_policy", "consent")
    tally: dict[str, Counter[str]] = {column: Counter() for column in columns}
    for row in sources:
        for column in columns:
            tally[column][row.get(column) or UNVERIFIED] += 1
    return {column: dict(sorted(tally[column].items())) for column in columns}
