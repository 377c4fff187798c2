"""How a lower bound ages with the bank: strangers above it grow, true pairs do not.

Two strangers above a bound of 0.5 are one in some hundred thousand pairs, so nobody meets them in a
bank of a thousand, and everybody does in one of a million. What was calibrated on a small bank
must be raised for a large one, and a user is told so where the bank is known: at selection. The
figures are those of docs/scale.md, measured on identities drawn with the spread of real embeddings
of the embedded embedders; of others nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from s2v.datapipe.pair.columns import codes, there
from s2v.datapipe.pair.settings import BANKS, SelectSettings

#: Name in an id: vectors searched at once, least bound of which nine in ten kept pairs were right.
FACES: Final = {"sface": ((1_000, 0.41), (10_000, 0.46), (100_000, 0.50), (1_000_000, 0.54))}
#: Embedders with which no bound gave nine in ten, for subjects searched everywhere.
NEVER: Final = ("mobilenet",)
_SMALL: Final = 1_000  # subjects; fewer were not measured


def least_bound(embedder: str, vectors: int) -> float | None:
    """Least cosine of which nine in ten kept pairs were right, rounded up to hundredths.

    Args:
        embedder: id of a face embedder.
        vectors: searched at once.

    Returns:
        ``None`` for an embedder that was not measured. Between measured sizes along the logarithm;
        beyond the largest the last slope goes on, below the smallest its bound holds.
    """
    known = next((found for name, found in FACES.items() if name in embedder.lower()), None)
    if known is None:
        return None
    sizes = np.log10([size for size, _ in known])
    bounds = [bound for _, bound in known]
    at = math.log10(max(vectors, known[0][0]))
    if at > sizes[-1]:
        slope = (bounds[-1] - bounds[-2]) / (sizes[-1] - sizes[-2])
        found = float(bounds[-1] + slope * (at - sizes[-1]))
    else:
        found = float(np.interp(at, sizes, bounds))
    return math.ceil(round(found * 100, 6)) / 100


def advice(subjects: pa.Table, settings: SelectSettings) -> Iterator[str]:
    """What a user should know of banks that are too large for their bounds, a line each.

    Args:
        subjects: table SUBJECTS.
        settings: with which it was selected.
    """
    kept = ~there(subjects["reason"])
    bank, names = codes(subjects["bank"])
    banks = [name for name in BANKS if settings.pair.of(name).across_sources == "faces"]
    by_face = np.append(np.isin(names.to_pylist(), banks), False)[bank]
    for embedder, count in _counts(subjects["face_embedder"], kept & by_face):
        least = least_bound(embedder, count)
        if least is not None and settings.face.lower < least:
            yield (
                f"{count:,} faces are searched in one bank: there a lower bound of {least:g} "
                f"kept nine true pairs in ten, face.lower is {settings.face.lower:g}. Raise it, "
                "have a verifier confirm pairs, or calibrate on a bank of this size"
            )
    for name in BANKS:
        if settings.pair.of(name).across_sources != "yes":
            continue
        mine = kept & np.append(np.isin(names.to_pylist(), [name]), False)[bank]
        for embedder, count in _counts(subjects["embedder"], mine):
            if count > _SMALL and any(one in embedder.lower() for one in NEVER):
                yield (
                    f"{count:,} subjects of bank {name} are searched in one bank by {embedder}: "
                    "beyond a thousand no lower bound kept nine true pairs in ten. Have a verifier "
                    "confirm pairs, take an embedder of instances, or set "
                    f"pair.{name}.across_sources = 'no'"
                )


def _counts(embedder: pa.ChunkedArray, among: np.ndarray) -> Iterator[tuple[str, int]]:
    """How many of the flagged rows each embedder made, by its id."""
    code, known = codes(embedder)
    counts = np.bincount(code[among & (code >= 0)], minlength=len(known)).tolist()
    yield from sorted((str(n), c) for n, c in zip(known.to_pylist(), counts, strict=True) if c)
