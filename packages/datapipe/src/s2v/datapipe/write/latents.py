"""What `s2v-model encode` wrote beside shards, after samples were taken out of them.

Encoded samples show what their clips showed. The trainer does not look at those of samples that
are no more, but they lie there; so a takedown takes them along.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from s2v.datapipe.base import atomic
from s2v.datapipe.base.shards import INDEX_FILE

#: Folder beside the shards, with a folder per encoder: ``<fingerprint>/<shard>.tar``.
FOLDER: Final = "latents"
_OWN: Final = "__"  # members of the file itself, not of a sample


def forget_latents(shards: Path) -> list[str]:
    """Remove every file of encoded samples that holds one which is in its shard no more.

    The file goes whole: `s2v-model encode` makes the others again. Which samples a file holds is
    read from its member names, ``<sample id>.<size>.safetensors``; one that cannot be read goes
    as well, as nobody can say what it shows.

    Args:
        shards: the shard folder, written anew.

    Returns:
        What was removed, relative to ``shards``, sorted.
    """
    root = shards / FOLDER
    if not root.is_dir():
        return []
    table = pq.read_table(shards / INDEX_FILE, columns=["sample_id", "shard"])
    there: dict[str, set[str]] = {}
    columns = (table["sample_id"].to_pylist(), table["shard"].to_pylist())
    for sample, shard in zip(*columns, strict=True):
        there.setdefault(str(shard), set()).add(str(sample))
    atomic.sweep(root)  # of writers that were killed
    # A folder per encoder, or the folder of one.
    files = sorted({*root.glob("*.tar"), *root.glob("*/*.tar")})
    gone = [path for path in files if not _samples(path) <= there.get(path.name, set())]
    for path in gone:
        path.unlink()
    return [str(path.relative_to(shards)) for path in gone]


def _samples(path: Path) -> set[str]:
    """Ids of the samples that a file holds; of an unreadable one an id that no sample has."""
    try:
        with tarfile.open(path, "r:") as tar:
            names = tar.getnames()
    except (tarfile.TarError, OSError):
        return {""}
    return {name.partition(".")[0] for name in names if not name.startswith(_OWN)}
