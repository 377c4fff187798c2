"""Rows for the selection: a million clips' vectors must not become Python's numbers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe.base import records
from s2v.datapipe.pair.rows import read

VECTOR = st.none() | st.lists(st.floats(-1, 1, width=32), max_size=5)


def table(vectors: list[list[float] | None]) -> pa.Table:
    rows = [
        {"detection_id": f"{n:04d}", "clip_id": "c", "subject": v} for n, v in enumerate(vectors)
    ]
    return records.table("embeddings", rows)


def test_vectors_of_many_subjects_stay_in_the_memory_of_their_table() -> None:
    width, count = 1408, 500
    values = np.random.default_rng(0).standard_normal(width * count).astype(np.float32)
    edges = pa.array(np.arange(0, width * count + 1, width, dtype=np.int32))
    made = table([None] * count).set_column(
        records.EMBEDDINGS.get_field_index("subject"),
        records.EMBEDDINGS.field("subject"),
        pa.ListArray.from_arrays(edges, pa.array(values)),
    )
    tracemalloc.start()
    rows = read({"embeddings": made}, "embeddings")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < values.nbytes, "as a list a float takes 32 bytes, here none"
    assert np.array_equal(rows[7]["subject"], values[7 * width : 8 * width])


@given(st.lists(VECTOR, min_size=1, max_size=8), st.lists(VECTOR, max_size=8), st.integers(0, 8))
def test_every_row_keeps_its_own_vector_whatever_pieces_the_table_is_in(
    first: list[list[float] | None], second: list[list[float] | None], skip: int
) -> None:
    whole = pa.concat_tables([table(first).slice(min(skip, len(first))), table(second)])
    rows = read({"embeddings": whole}, "embeddings")
    as_python = sorted(whole.to_pylist(), key=lambda row: row["detection_id"])
    for row, told in zip(rows, as_python, strict=True):
        assert row["background"] is None
        if told["subject"] is None:
            assert row["subject"] is None
        else:
            assert row["subject"].dtype == np.float32
            assert row["subject"].tolist() == told["subject"]
