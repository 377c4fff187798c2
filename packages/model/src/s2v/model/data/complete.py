"""Before the first step: is every shard there, and as long as it was written?"""

from __future__ import annotations

import os
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
        elif not os.access(path, os.R_OK):
            wrong.append(f"{path}: the shard may not be read; change its permissions")
        elif (wanted := sizes.get(str(name))) not in (None, path.stat().st_size):
            wrong.append(f"{path}: has {path.stat().st_size} bytes of {wanted}; it is cut short")
    if wrong:
        more = (
            f" (and {len(wrong) - 1} more shards are missing, cut or not to be read)"
            if len(wrong) > 1
            else ""
        )
        raise ModelError(f"{wrong[0]}{more}; fetch it again, or write it anew: `s2v-data select`")


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes per shard as the writer recorded them; empty where it did not."""
    path = folder / _SHARDS
    if not path.is_file():
        return {}
    try:
        rows = pq.read_table(path, columns=["shard", "bytes"]).to_pylist()
        return {str(row["shard"]): int(row["bytes"]) for row in rows}
    except (pa.ArrowInvalid, OSError) as error:
        if _of_another(path):
            return {}  # not of our writer: lengths are found wrong when samples are read
        raise ModelError(
            f"{path}: is damaged ({str(error).splitlines()[0]}); fetch it again, or write it anew: "
            "`s2v-data select`"
        ) from None


def _of_another(path: Path) -> bool:
    """Whether it is whole, but lists no lengths."""
    try:
        return not {"shard", "bytes"} <= set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError):
        return False
