"""A damaged index or takedown list stops the work in one line; it is never half read."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v.datapipe.base.exclusions import ExclusionError, read_exclusions
from s2v.datapipe.base.shards import ShardError, ShardIndex

LINE = '{"key_type": "clip_id", "key": "é", "reason": "r", "by": "b", "when": "w"}'


def test_a_damaged_index_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "samples.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    with pytest.raises(ShardError, match=r"samples\.parquet: the index is damaged.*s2v-data run"):
        ShardIndex.open(tmp_path)


def test_a_takedown_list_that_cannot_be_read_stops_the_write(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    with pytest.raises(ExclusionError, match=r"list\.jsonl: no such exclusion list"):
        read_exclusions(path)
    path.write_bytes(LINE.encode("latin-1"))
    with pytest.raises(ExclusionError, match="not UTF-8"):
        read_exclusions(path)


def test_a_list_saved_with_a_byte_order_mark_is_honoured(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(LINE + "\n", encoding="utf-8-sig")
    assert read_exclusions(path)[0].key == "é"
