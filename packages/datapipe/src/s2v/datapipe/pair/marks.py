"""Whether a product can be told from others of its make: a recognisable logo or text.

Phantom-Data (step 3) pairs only products that show one. Without it, two cups of one make look
like one cup twice, whatever embedder or model compares them.
"""

from __future__ import annotations

from collections.abc import Iterable
from unicodedata import east_asian_width

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.pair.columns import Flags, whole
from s2v.datapipe.pair.rows import Row, Tables, by
from s2v.datapipe.pair.settings import BANKS, PairRules

PRODUCT = "product"


def unmarked(subjects: pa.Table, tables: Tables, rules: PairRules) -> Flags:
    """``[n]`` flags: products whose best box shows no mark, or was not looked at for one.

    The checker's word counts where it was asked, as it knows logos that are no text; else what was
    read on the box.

    Args:
        subjects: ``n`` rows of SUBJECTS with their classes.
        tables: of which ``checks`` and ``marks`` are read.
        rules: thresholds; a bank whose ``require_mark`` is off has no unmarked subjects.
    """
    found = np.zeros(subjects.num_rows, np.bool_)
    strict = pa.array([bank for bank in BANKS if rules.of(bank).require_mark], pa.string())
    asked = pc.and_(pc.equal(subjects["class"], PRODUCT), pc.is_in(subjects["bank"], strict))
    asked = pc.and_(pc.fill_null(asked, False), pc.is_valid(subjects["detection_id"]))
    at = np.flatnonzero(whole(asked).to_numpy(zero_copy_only=False))
    detections = subjects["detection_id"].take(pa.array(at)).to_pylist()
    checks = by(_of(tables, "checks", detections), "detection_id")
    marks = by(_of(tables, "marks", detections), "detection_id")
    for n, detection in zip(at, detections, strict=True):
        said = checks.get(detection, {}).get("mark")
        found[n] = not (_legible(marks.get(detection), rules) if said is None else said)
    return found


def _of(tables: Tables, name: str, detections: Iterable[str]) -> list[Row]:
    """Rows of some detections; a table that was not measured has none."""
    if name not in tables or not tables[name].num_rows:
        return []
    wanted = pa.array(sorted(detections), pa.string())
    rows: list[Row] = (
        tables[name].filter(pc.is_in(tables[name]["detection_id"], value_set=wanted)).to_pylist()
    )
    return rows


def _legible(mark: Row | None, rules: PairRules) -> bool:
    if mark is None or mark["text"] is None:
        return False
    sure = mark["text_score"] >= rules.mark_score
    return bool(sure and letters(mark["text"]) >= rules.mark_letters)


def letters(text: str) -> int:
    """Letters and digits; a wide one, such as a Chinese character, says as much as two."""
    return sum(2 if east_asian_width(one) in "WF" else 1 for one in text if one.isalnum())
