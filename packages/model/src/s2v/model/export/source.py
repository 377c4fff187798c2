"""What is exported: the newest weights of a run, one checkpoint, or any Wan file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from s2v.model import checkpoint
from s2v.model.checkpoints import identify as ident
from s2v.model.checkpoints.keymaps import Piece
from s2v.model.checkpoints.loading import assign, checked, find, wan_pieces, without_memory
from s2v.model.checkpoints.safetensors_file import Entry
from s2v.model.checkpoints.weights import Weights
from s2v.model.checkpoints.writing import Stored, digests
from s2v.model.errors import ModelError
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Source:
    """A Wan network's tensors under their original names.

    Attributes:
        weights: the file they lie in.
        pieces: original name -> where it comes from.
        config: of the network.
        facts: provenance; JSON values.
    """

    weights: Weights
    pieces: Mapping[str, Piece]
    config: WanConfig
    facts: Mapping[str, Any]

    def tensors(self, dtype: str | None) -> dict[str, Stored]:
        """Everything to be written, in ``dtype`` (torch's name) or as it is stored."""
        return {name: self._stored(piece, dtype) for name, piece in self.pieces.items()}

    def _stored(self, piece: Piece, dtype: str | None) -> Stored:
        entry = self.weights.entries[piece.source]
        if entry.dtype.startswith("float8"):
            raise ModelError(f"{self.weights.path}: {entry.dtype}; give bf16, fp16 or fp32 weights")
        target = entry.dtype if dtype is None else dtype
        return Stored(Entry(target, entry.shape), lambda: self.weights.read(piece.source))

    def model(self, dtype: str | None, **options: Any) -> WanModel:
        """The network in float32, its weights rounded to ``dtype`` first."""
        with without_memory():
            model = WanModel(self.config.model_copy(update=options))
        pieces = self.pieces
        if dtype is not None:
            kind = getattr(torch, dtype)
            pieces = {n: Piece(p.source, lambda t: t.to(kind)) for n, p in pieces.items()}
        assign(model, self.weights, pieces, dtype=torch.float32)
        return model.eval()


def open_source(
    path: Path, *, ema: bool = False, heads: int | None = None, pass_over: Sequence[str] = ()
) -> Source:
    """Find the network at ``path``.

    Args:
        path: a run folder, one of its checkpoints, or a Wan network in any layout.
        ema: the moving average of a run's or checkpoint's weights.
        heads: number of heads, where nothing tells.
        pass_over: patterns of original names that the file holds and the network has not.

    Raises:
        ModelError: nothing there, another model, no moving average there, or an unfit network.
    """
    file, step = path, None
    if path.is_dir() and (path / "checkpoints").is_dir():
        newest = checkpoint.latest(path / "checkpoints")
        if newest is None:
            raise ModelError(f"{path}: the run has no checkpoint yet; train first")
        file = newest
    if (file / "state.json").is_file():
        step = checkpoint.describe(file).step
        weights = checkpoint.open_weights(file, "ema" if ema else "model")
        identity = checked(weights, ident.WAN)
    elif ema:
        raise ModelError(f"{path}: no run and no checkpoint of one, so it has no moving average")
    else:
        weights, identity = find(file, ident.WAN)
    config = ident.wan_config(weights, identity, heads)
    pieces = wan_pieces(weights, identity)
    with without_memory():
        empty = WanModel(config)
    left = [n for n in pieces if any(fnmatchcase(n, p) for p in pass_over)]
    pieces = {n: p for n, p in pieces.items() if n not in left or n in empty.state_dict()}
    assign(empty, weights, pieces)  # every name and shape, before anything is written
    facts: dict[str, Any] = {
        "model": identity.model,
        "layout": identity.layout,
        "files": digests(weights.files),
        "dtypes": weights.dtypes,
        "parameters": weights.parameters,
        "config": config.model_dump(mode="json"),
    }
    if step is not None:
        facts |= {"step": step, "weights": "ema" if ema else "model"}
    return Source(weights, pieces, config, facts)


def dtype_name(short: str | None) -> str | None:
    """``bf16`` -> ``bfloat16``.

    Raises:
        ModelError: none of ``fp32 bf16 fp16``.
    """
    if short is None:
        return None
    if short not in DTYPES:
        raise ModelError(f"--dtype {short}: not one of {', '.join(DTYPES)}")
    return DTYPES[short]


def metadata(config: WanConfig, layout: str) -> dict[str, str]:
    """The header's strings. ``format`` is what transformers asks for; ours says the rest."""
    about = {"format": f"s2v-export-{layout}", "wan": config.model_dump(mode="json")}
    return {"format": "pt", "s2v": json.dumps(about, sort_keys=True)}
