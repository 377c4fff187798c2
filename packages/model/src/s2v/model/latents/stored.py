"""One entry of a file as features: small tensors at once, the others row by row when asked for.

A step sees one variant of a sample, up to four references, one form of each: of what is stored a
small part. Only that is read, by ``pread`` into the tensor that is returned; a disk that fails
raises an error that names the file, where a mapped page would end the process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from s2v.model.data.encoding import Features
from s2v.model.data.references import FORMS, Form
from s2v.model.errors import ModelError
from s2v.model.latents.container import LatentsFile
from s2v.model.latents.entry import NAMES, Want

_HEADER_LIMIT: Final = 1 << 20
_GUESS: Final = 2048  # bytes; a header of six tensors is shorter
_DTYPES: Final = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}
_DIMS: Final = {
    "video": 5, "references": 6, "image": 5, "text": 2, "text_subject": 1, "reference_subject": 1,
}  # fmt: skip


def serialise(features: Features, wanted: Want) -> bytes:
    """Safetensors bytes of a sample: only the wanted forms, and no bit that says nothing.

    A tensor all of whose values bfloat16 holds exactly is stored as that: encoders that compute
    in bfloat16 cost half, and what is read is equal to the last bit.
    """
    at = torch.tensor([FORMS.index(form) for form in wanted.forms])
    tensors = {
        "video": features.video,
        "references": features.references[:, :, at],
        "image": features.image[:, :, at],
        "text": features.text,
        "text_subject": features.text_subject,
        "reference_subject": features.reference_subject,
    }
    # No metadata: the library writes several keys of it in no fixed order.
    return bytes(save({name: _narrow(x).contiguous() for name, x in tensors.items()}))


def _narrow(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        return x
    half = x.to(torch.bfloat16)
    return half if torch.equal(half.float(), x) else x


@dataclass(frozen=True)
class _Tensor:
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # in the file


class StoredFeatures:
    """What :class:`s2v.model.data.encoding.Features` is, on disk.

    Args:
        file: holds the entry.
        name: of its member, for messages.
        offset: of the entry's data.
        size: of the entry's data.
        wanted: by the run; variants and references beyond it are not shown.
        forms: that are stored.

    Raises:
        ModelError: not the entry that the index promises.
    """

    def __init__(
        self,
        file: LatentsFile,
        name: str,
        offset: int,
        size: int,
        wanted: Want,
        forms: tuple[Form, ...],
    ) -> None:
        self._file, self._name, self._forms = file, name, forms
        self._tensors = self._header(offset, size)
        self.variants, self.candidates = len(wanted.windows), wanted.references
        self._check(wanted)
        self.text = self._read("text", ())
        ids = self._read("reference_subject", ())[: self.candidates]
        self.text_subject, self.reference_subject = self._read("text_subject", ()), ids
        if not self.candidates:  # a run without references: no word is bound to one
            self.text_subject = torch.zeros_like(self.text_subject)

    def pick(self, variant: int, which: Tensor, form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`s2v.model.data.encoding.Features.pick`."""
        video = self._read("video", (variant,))
        rows = [
            (variant, int(k), self._form(int(f)))
            for k, f in zip(which.tolist(), form.expand(which.shape).tolist(), strict=True)
        ]
        return video, self._rows("references", rows), self._rows("image", rows)

    def load(self) -> Features:
        """All of it in memory; forms that are not stored repeat the first that is."""
        at = torch.tensor([self._form(f) for f in range(len(FORMS))])
        v, k = self.variants, self.candidates
        return Features(
            video=self._read("video", ())[:v],
            references=self._read("references", ())[:v, :k][:, :, at],
            image=self._read("image", ())[:v, :k][:, :, at],
            text=self.text,
            text_subject=self.text_subject,
            reference_subject=self.reference_subject,
        )

    def _form(self, number: int) -> int:
        form = FORMS[number]
        return self._forms.index(form) if form in self._forms else 0

    def _rows(self, name: str, rows: Sequence[tuple[int, ...]]) -> Tensor:
        if rows:
            return torch.stack([self._read(name, row) for row in rows])
        return torch.zeros(0, *self._tensors[name].shape[3:])

    def _read(self, name: str, row: tuple[int, ...]) -> Tensor:
        """One row along the leading dimensions; floats as float32."""
        told = self._tensors[name]
        shape, item = told.shape[len(row) :], told.dtype.itemsize
        before = 0
        for n, at in enumerate(row):
            if not 0 <= at < told.shape[n]:
                raise IndexError(f"{name} {row} of {told.shape}")
            before += at * math.prod(told.shape[n + 1 :])
        out = torch.empty(shape, dtype=told.dtype)
        if out.numel():
            raw = out.reshape(-1).view(torch.uint8)
            self._file.pread_into(raw.numpy().data, told.offset + before * item)
        return out.float() if out.is_floating_point() else out

    def _header(self, offset: int, size: int) -> dict[str, _Tensor]:
        where = f"{self._file.path}: {self._name}"
        # The tar's header stands before the data: an index of another file is found out.
        guess = min(size, _GUESS)
        found = bytes(self._file.pread(offset - 512, 512 + guess))
        if found[:100].rstrip(b"\0") != self._name.encode():
            raise ModelError(f"{where}: something else stands there; run `s2v-model encode` again")
        found = found[512:]
        length = int.from_bytes(found[:8], "little")
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ModelError(f"{where}: not safetensors")
        if 8 + length > len(found):
            found = bytes(self._file.pread(offset, 8 + length))
        try:
            header = json.loads(found[8 : 8 + length])
            return {
                name: _tensor(header[name], offset + 8 + length, size - 8 - length, _DIMS[name])
                for name in NAMES
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{where}: its header is damaged ({error!r})") from None

    def _check(self, wanted: Want) -> None:
        """Shapes that agree with each other and hold what is wanted."""
        frames, height, width = wanted.size
        v, _, *grid = self._tensors["video"].shape
        k = self._tensors["references"].shape
        i, subjects = self._tensors["image"].shape, self._tensors["reference_subject"].shape
        words = (self._tensors["text"].shape[0],)
        good = (
            grid == [(frames - 1) // 4 + 1, height // 8, width // 8]
            and v >= len(wanted.windows)
            and k[:3] == i[:3] == (v, subjects[0], len(self._forms))
            and k[1] >= wanted.references
            and list(k[4:]) == grid[1:]
            and self._tensors["text_subject"].shape == words
            and words[0] > 0
        )
        if not good:
            shapes = {name: told.shape for name, told in self._tensors.items()}
            raise ModelError(
                f"{self._file.path}: {self._name}: its tensors {shapes} are not a sample of "
                f"{wanted.size}; delete the file, then run `s2v-model encode` again"
            )


def _tensor(said: Any, begin: int, room: int, dims: int) -> _Tensor:
    """One tensor of a header, checked against the room that its entry has."""
    dtype, shape, (start, stop) = _DTYPES[said["dtype"]], said["shape"], said["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)) or len(shape) != dims:
        raise ValueError(f"shape {shape} at {start}")
    if stop - start != math.prod(shape) * dtype.itemsize or stop > room:
        raise ValueError(f"{shape} does not fit {start} to {stop}")
    return _Tensor(dtype, tuple(shape), begin + start)
