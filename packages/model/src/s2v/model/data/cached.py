"""Writing what is only ever a shortcut: where it cannot be kept, work goes on without."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from s2v.datapipe.base.atomic import replacing

_TOLD: Final[set[Path]] = set()


def keep(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Write a cache entry; a disk that is full or may not be written costs time, not the run.

    Says so once per folder and process.

    Args:
        path: of the entry; its folder is made.
        tensors: by name.

    Returns:
        Whether it is there.
    """
    try:
        with replacing(path) as temporary:
            save_file(dict(tensors), temporary)
    except (OSError, SafetensorError) as error:
        if path.parent not in _TOLD:
            _TOLD.add(path.parent)
            why = getattr(error, "strerror", None) or " ".join(str(error).split())
            print(
                f"s2v-model: {path.parent}: what is decoded and encoded cannot be kept ({why}) and "
                "is made again each time it is needed; free some space, or give another --cache",
                file=sys.stderr,
            )
        return False
    return True
