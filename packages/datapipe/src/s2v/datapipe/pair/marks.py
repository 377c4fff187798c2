"""Whether a product can be told from others of its make: a recognisable logo or text.

Phantom-Data (step 3) pairs only products that show one. Without it, two cups of one make look
like one cup twice, whatever embedder or model compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from unicodedata import east_asian_width

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.pair.rows import Row, Tables, by
from s2v.datapipe.pair.settings import BANKS, PairRules
from s2v.datapipe.pair.verify import Flags

PRODUCT = "product"


def unmarked(
    subjects: Sequence[str],
    detections: Sequence[str | None],
    banks: Sequence[str],
    tables: Tables,
    rules: PairRules,
) -> Flags:
    """``[n]`` flags: products whose best box shows no mark, or was not looked at for one.

    The checker's word counts where it was asked, as it knows logos that are no text; else what was
    read on the box.

    Args:
        subjects, detections, banks: ``[n]`` of SUBJECTS: id, its best box, bank.
        tables: of which ``phrases``, ``checks`` and ``marks`` are read.
        rules: thresholds; a bank whose ``require_mark`` is off has no unmarked subjects.
    """
    found = np.zeros(len(subjects), np.bool_)
    products = _products(tables)
    strict = {bank for bank in BANKS if rules.of(bank).require_mark}
    wanted = {
        n: detection
        for n, detection in enumerate(detections)
        if detection is not None and banks[n] in strict and subjects[n] in products
    }
    checks = by(_of(tables, "checks", wanted.values()), "detection_id")
    marks = by(_of(tables, "marks", wanted.values()), "detection_id")
    for n, detection in wanted.items():
        said = checks.get(detection, {}).get("mark")
        found[n] = not (_legible(marks.get(detection), rules) if said is None else said)
    return found


def _products(tables: Tables) -> set[str]:
    phrases = tables["phrases"]
    return set(phrases.filter(pc.equal(phrases["class"], PRODUCT))["subject_id"].to_pylist())


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
