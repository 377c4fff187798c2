"""Verdicts of a second model on the candidates of a selection (Phantom-Data, step 3).

With a verifier a pair passes when it said yes twice. A pair that passes every other rule and
has no answer is ``not_verified``; it never passes for want of one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.pair.columns import Column, Flags, Ints, whole
from s2v.datapipe.pair.evidence import ANSWERS, UNANSWERED_RULES, VERIFIER_RULES

_QUARANTINED, _NOT_VERIFIED = UNANSWERED_RULES


class Verdicts:
    """The verdicts on ``n`` candidate pairs.

    Args:
        table: rows of table VERDICTS in any order, each pair of detections at most once.
        detections: detection id of every subject that can be in a pair, null for none.
        target, reference: ``[n]`` positions of the candidates' subjects in ``detections``; which
            of the two comes first does not matter.
    """

    def __init__(
        self,
        table: pa.Table,
        detections: Column,
        target: npt.NDArray[np.integer],
        reference: npt.NDArray[np.integer],
    ) -> None:
        known = whole(detections)
        ends = []
        for side in ("target", "reference"):
            ends.append(whole(pc.index_in(table[f"{side}_detection_id"], value_set=known)))
        here = pc.and_(ends[0].is_valid(), ends[1].is_valid())
        asked = table.filter(here)
        one, other = (end.filter(here).to_numpy().astype(np.int64) for end in ends)
        keys = _key(one, other, len(known))
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        wanted = _key(np.asarray(target, np.int64), np.asarray(reference, np.int64), len(known))
        place = np.searchsorted(keys, wanted)
        found = place < len(keys)
        found[found] = keys[place[found]] == wanted[found]
        rows = np.zeros(len(wanted), np.int64)
        rows[found] = order[place[found]]
        at = pa.array(rows, mask=~found)
        self._asked = found
        self._said = {name: asked[name].take(at).combine_chunks() for name in ANSWERS}

    def failed(self, passing: Flags) -> dict[str, Flags]:
        """``[n]`` flags per rule of VERIFIER_RULES and UNANSWERED_RULES.

        Args:
            passing: candidates that fail no other rule: only they need an answer. A "no" counts
                on any, as a candidate states every rule that it fails.
        """
        rules = {}
        answered = np.zeros(len(passing), np.bool_)
        for rule, column in zip(VERIFIER_RULES, ANSWERS, strict=True):
            said = self._said[column]
            answered |= said.is_valid().to_numpy(zero_copy_only=False)
            refused = pc.not_equal(said, "yes").fill_null(False)
            rules[rule] = refused.to_numpy(zero_copy_only=False)
        rules[_QUARANTINED] = passing & self._asked & ~answered
        rules[_NOT_VERIFIED] = passing & ~self._asked
        return rules

    def refused(self) -> Flags:
        """``[n]`` flags: asked about, and not told "yes" twice; no answer in the end is none."""
        yes = np.ones(len(self._asked), np.bool_)
        for column in ANSWERS:
            said = pc.equal(self._said[column], "yes").fill_null(False)
            yes &= said.to_numpy(zero_copy_only=False)
        return np.asarray(self._asked & ~yes, np.bool_)

    def columns(self) -> dict[str, pa.Array]:
        """The answers as columns ``[n]`` of table PAIRS; null where there is none."""
        return dict(self._said)


def _key(one: Ints, other: Ints, size: int) -> Ints:
    """One number per unordered pair of positions below ``size``."""
    keys: Ints = np.minimum(one, other) * max(size, 1) + np.maximum(one, other)
    return keys
