"""What a shard says of the verdicts on a reference: whose they are, and by which words asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from s2v.datapipe.base import shards
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.pair.verify import RULES_VERIFIER

Said = Mapping[tuple[str, str], Row]


def said_of(rows: Iterable[Row]) -> Said:
    """Rows of table ``verdicts`` by their two detections, the lesser id first."""
    return {(row["target_detection_id"], row["reference_detection_id"]): row for row in rows}


def verdicts_on(said: Said, one: str, other: str) -> shards.Verdicts:
    """The verdicts on an accepted pair.

    Without a second model the rules have judged, and what passed them is their yes.

    Args:
        said: of :func:`said_of`.
        one, other: the subjects' detections, in any order.
    """
    row = said.get((min(one, other), max(one, other)))
    if row is None:
        return shards.Verdicts(
            same_identity="yes", different_context="yes", verifier=RULES_VERIFIER
        )
    return shards.Verdicts(
        **{name: row[name] for name in ("same_identity", "different_context")},
        **{name: row[name] for name in ("verifier", "prompt_sha256")},
    )
