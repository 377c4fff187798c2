"""Unit vectors as whole numbers, so that sums of products are exact in float32.

Floating-point sums depend on their order, and the order on the BLAS library, its threads and
the number of queries in a batch: rivals closer than the error change places. Scaled to length
``LENGTH`` and rounded, every product and every partial sum is a whole number of at most
``LENGTH`` squared (Cauchy-Schwarz), below 2^24, which float32 holds exactly. Any order of
adding gives the same bits. The price is an error of the cosine of about 2e-4, which only
decides what is proposed; cosines are computed again from the vectors themselves.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

LENGTH: Final = 2048  # float16 holds whole numbers up to it
LIMIT: Final = LENGTH * LENGTH  # of a score


def whole(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Scale and round.

    Args:
        vectors: ``[n, d]``, L2-normalised.

    Returns:
        ``[n, d]`` float32 whole numbers; no row is longer than ``LENGTH``.
    """
    wide = np.asarray(vectors, np.float32)
    # Rounding lengthens a row by at most half a unit a dimension; 1.01 covers lengths off one.
    scale = (LENGTH - np.sqrt(wide.shape[1]) / 2) / 1.01
    if scale < LENGTH / 4:
        raise ValueError(f"vectors of {wide.shape[1]} dimensions are wider than this search takes")
    found: npt.NDArray[np.float32] = np.rint(wide * np.float32(scale))
    return found
