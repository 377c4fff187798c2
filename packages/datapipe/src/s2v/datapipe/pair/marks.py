"""Whether a product can be told from others of its make: a recognisable logo or text.

Phantom-Data (step 3) pairs only products that show one. Without it, two cups of one make look
like one cup twice, whatever embedder or model compares them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from s2v.datapipe.pair.rows import Row, Tables, by, read
from s2v.datapipe.pair.settings import PairRules
from s2v.datapipe.pair.verify import Flags

PRODUCT = "product"


def unmarked(subjects: Iterable[Row], tables: Tables, rules: PairRules) -> Flags:
    """``[n]`` flags: products whose best box shows no mark, or was not looked at for one.

    The checker's word counts where it was asked, as it knows logos that are no text; else what was
    read on the box.

    Args:
        subjects: rows of SUBJECTS.
        tables: of which ``checks`` and ``marks`` are read.
        rules: thresholds; a bank whose ``require_mark`` is off has no unmarked subjects.
    """
    rows = list(subjects)
    asked = {i for i, row in enumerate(rows) if _needs(row, rules)}
    found = np.zeros(len(rows), np.bool_)
    if asked:
        checks = by(read(tables, "checks"), "detection_id")
        marks = by(read(tables, "marks"), "detection_id")
        for n in asked:
            key = rows[n]["detection_id"]
            said = checks.get(key, {}).get("mark")
            found[n] = not (_legible(marks.get(key), rules) if said is None else said)
    return found


def _needs(row: Row, rules: PairRules) -> bool:
    return (
        row["class"] == PRODUCT
        and row["detection_id"] is not None
        and rules.of(row["bank"]).require_mark
    )


def _legible(mark: Row | None, rules: PairRules) -> bool:
    if mark is None or mark["text"] is None:
        return False
    letters = sum(one.isalnum() for one in mark["text"])
    return bool(letters >= rules.mark_letters and mark["text_score"] >= rules.mark_score)
