"""What the tests of encoded shards share: shards of their own, and encoders of seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2v.datapipe.base.shards import INDEX_FILE, Sample, ShardIndex
from s2v.model.config import Config
from s2v.model.latents.encode import EncodeResult, Encoding, encode
from s2v.model.progress import quiet
from s2v.model.run import Run, fit_autoencoder


def own(shards: Path, folder: Path, *ids: str) -> Path:
    """A copy of shards that a test may change, and beside which it may write; of ``ids`` alone."""
    copied = Path(shutil.copytree(shards, folder / "shards"))
    if ids:
        table = pq.read_table(copied / INDEX_FILE)
        keep = pc.is_in(table["sample_id"], value_set=pa.array(ids))
        pq.write_table(table.filter(keep), copied / INDEX_FILE)
    return copied


def encoding(config: Config, shards: Path, run: Path, **options: Any) -> Encoding:
    """An encoding with a run's encoders; the run's autoencoder is fitted where it has to be."""
    made = Run(run)
    if config.autoencoder.kind == "linear" and not made.autoencoder.is_file():
        fit_autoencoder(config, shards, made, quiet)
    return Encoding(config, shards, made.encoders(config), **options)


def encoded(config: Config, shards: Path, run: Path, **options: Any) -> EncodeResult:
    """All of a folder, in one process."""
    return encode(encoding(config, shards, run, **options))


def contents(folder: str | Path) -> dict[str, bytes]:
    """Every file of a latents folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def samples(shards: Path) -> dict[str, Sample]:
    """By id."""
    return {sample.id: sample for sample in ShardIndex.open(shards)}
