"""Files of ``torch.save``: tensors only, mapped from the file, no code run.

``weights_only=True`` is torch's own unpickler with a list of allowed names. Around it stands what
that leaves open: how large the pickle may be, that nothing in the archive is compressed (a small
file must not become a large one), and that what comes out are plain tensors.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from s2v.model.checkpoints.safetensors_file import Entry
from s2v.model.errors import ModelError

PICKLE_LIMIT: Final = 64 << 20  # bytes; Wan's 14B needs 0.2 MB
#: Where training programs put the state dict, when it is not the file itself.
_WRAPPERS: Final = ("state_dict", "model_state_dict", "module", "model")
_GLOBAL: Final = re.compile(r"GLOBAL ([\w.]+)")


class TorchFile:
    """One file. Tensors of the zip format are mapped; the older format is read whole.

    Args:
        path: the file.
        zipped: whether it is a zip archive (torch 1.6 and later).

    Raises:
        ModelError: cut short, not tensors only, or no mapping of names to tensors.
    """

    def __init__(self, path: Path, *, zipped: bool) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        if zipped:
            _check_archive(path)
        self._tensors = _state_dict(path, _load(path, zipped))
        self.entries = {
            name: Entry(str(t.dtype).removeprefix("torch."), tuple(t.shape))
            for name, t in sorted(self._tensors.items())
        }

    def read(self, name: str) -> Tensor:
        """The tensor; of the zip format, its bytes are read when they are used."""
        return self._tensors[name]


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(
            f"{path}: cut short or broken ({error}); torch.save ends a file with its table of "
            "contents; download it again"
        ) from None
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise ModelError(f"{path}: a compressed archive; torch.save does not compress")
    pickles = [m for m in members if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelError(f"{path}: a zip archive, but not of torch.save (no data.pkl)")
    if any(m.filename.endswith("/constants.pkl") for m in members):
        raise ModelError(f"{path}: TorchScript, a program; give its weights as safetensors")
    if pickles[0].file_size > PICKLE_LIMIT:
        raise ModelError(
            f"{path}: its table of tensors has {pickles[0].file_size} bytes, "
            f"at most {PICKLE_LIMIT} are read"
        )
    if sum(m.file_size for m in members) > path.stat().st_size:
        raise ModelError(f"{path}: its members are larger than the file")


def _load(path: Path, zipped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=zipped, weights_only=True)
    except Exception as error:  # noqa: BLE001 - a stranger's pickle makes the reader raise anything
        named = _GLOBAL.search(str(error))
        if named:
            raise ModelError(
                f"{path}: holds more than tensors ({named[1]}), which can run code; it is not "
                "opened; give safetensors, or save the bare state dict"
            ) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "mmap" in reason:
            raise ModelError(
                f"{path}: {reason[:160]}; torch maps such a file whole, which takes a machine with "
                "that much memory; give sharded safetensors"
            ) from None
        raise ModelError(
            f"{path}: cut short or broken ({reason[:160]}); download it again"
        ) from None


def _state_dict(path: Path, loaded: Any) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping) and not _tensors_only(loaded):
        inside = [w for w in _WRAPPERS if isinstance(loaded.get(w), Mapping)]
        if len(inside) == 1:
            loaded = loaded[inside[0]]
    if not isinstance(loaded, Mapping) or not _tensors_only(loaded) or not loaded:
        raise ModelError(
            f"{path}: no mapping of names to tensors; looked for one at the top and in "
            f"{', '.join(_WRAPPERS)}"
        )
    odd = [name for name, t in loaded.items() if t.layout is not torch.strided or t.is_quantized]
    if odd:
        raise ModelError(f"{path}: {odd[0]} is sparse or quantised; give plain tensors")
    return dict(loaded)


def _tensors_only(mapping: Mapping[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in mapping.items())
