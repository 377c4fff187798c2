"""Rows of Phantom-Data with the videos that they name, and an import of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from foreign_files import film, reference, target
from PIL import Image

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.phantom_data import PhantomData
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.interop.videos import Videos
from s2v.datapipe.interop.writing import ShardWriter

A, B, BIG, GONE = "a1b2_0.0_2.0", "a1b2_10.5_12.5", "c3d4_1.0_3.0", "e5f6_0.0_2.0"
CAPTION = "A woman in a red coat walks past a shop, and a dog follows her."
BOX = (40, 20, 100, 80)


def films(folder: Path) -> Path:
    """Make the videos that the rows name, as a user has them: some deeper than others."""
    film(folder / f"{A}.mp4", box=BOX)
    film(folder / "deep" / f"{B}.mp4", box=BOX)
    # Larger than the 768 pixels that boxes were measured on.
    film(folder / f"{BIG}.mp4", frames=8, size=(1152, 648), box=(300, 150, 600, 450), fps=4)
    return folder


def run(pairs: Path, videos: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Import; the counts of the ledger and what was written."""
    chosen = ImportSettings(**settings)
    ledger = Ledger()
    dataset = PhantomData(pairs, None, chosen)
    writer = ShardWriter(out, Videos(videos), chosen, ledger, quiet=True)
    written = writer.write(dataset.samples(ledger))
    return {**ledger.write(out, {}), "written": written}


def by_type(out: Path, pair_type: str) -> Sample:
    """The one sample of this type."""
    (found,) = [s for s in ShardIndex.open(out / "shards") if s.row["pair_type"] == pair_type]
    return found


def picture(sample: Sample, member: str) -> np.ndarray:
    """A member of a sample, decoded."""
    return np.asarray(Image.open(io.BytesIO(sample.read(member, verify=True))))


def row(vid: str, pairs: Any, caption: str = CAPTION) -> dict[str, Any]:
    """A row of the pairs."""
    return {"vid": vid, "caption": caption, "pairs": pairs}


def good(vid: str = A, other: str = B) -> dict[str, Any]:
    """A row with an in-pair and a cross-pair, nothing wrong with it."""
    return row(
        vid,
        {
            "A woman in a red coat": {
                "obj_from_tgt_video": [target(vid, "0.05", BOX)],
                "refer_result": [[reference(other, "0.5", BOX)]],
            }
        },
    )
