"""Before the first step: is every shard there, and as long as it was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2v.datapipe.base.shards import ShardIndex
from s2v.model.data.pool import Pool
from s2v.model.errors import ModelError

_SHARDS: Final = "index/shards.parquet"


def check_shards(index: ShardIndex, pool: Pool) -> None:
    """Look at the shards that the pool draws from; one look at each file, nothing is read.

    A copy that is not whole is found here, not as a few per cent of samples that others stand in
    for.

    Raises:
        ModelError: a shard is missing, or has another length than was recorded.
    """
    drawn = index.table["shard"].take(pa.array(pool.drawn_rows()))
    sizes = _sizes(index.folder)
    wrong = []
    for name in sorted(pc.unique(drawn).to_pylist()):
        path = index.folder / str(name)
        if not path.is_file():
            wrong.append(f"{path}: the shard is missing")
        elif (wanted := sizes.get(str(name))) not in (None, path.stat().st_size):
            wrong.append(f"{path}: has {path.stat().st_size} bytes of {wanted}; it is cut short")
    if wrong:
        more = f" (and {len(wrong) - 1} more shards are missing or cut)" if len(wrong) > 1 else ""
        raise ModelError(f"{wrong[0]}{more}; fetch it again, or write it anew: `s2v-data select`")


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes per shard as the writer recorded them; empty where it did not."""
    path = folder / _SHARDS
    if not path.is_file():
        return {}
    try:
        rows = pq.read_table(path, columns=["shard", "bytes"]).to_pylist()
    except (pa.ArrowInvalid, KeyError):
        return {}  # not of our writer: lengths are found wrong when samples are read
    return {str(row["shard"]): int(row["bytes"]) for row in rows}
