"""Checkpoints: whole or not there, verified when read, no pickle.

``checkpoints/step-00000100/`` holds ``model ema optim .safetensors`` and ``state.json`` with
the step, the plan, the counters and the digest of every file. It is written under another name
and renamed, so a process killed at any moment leaves the one before as the latest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2v.datapipe.base.atomic import sha256_file, write_json
from s2v.model.errors import ModelError
from s2v.model.mmdit import Widths

_PARTS: Final = ("model", "ema", "optim")
_FORMAT: Final = "s2v-mmdit-1"


@dataclass(frozen=True)
class Checkpoint:
    """All that training needs to go on.

    Attributes:
        step: finished steps.
        model: weights.
        ema: their moving average.
        optim: ``<parameter>/<exp_avg|exp_avg_sq|step>``.
        state: plan, counters; JSON values.
        about: configuration, widths of the network's inputs, fingerprint of the encoders.
    """

    step: int
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optim: Mapping[str, Tensor]
    state: Mapping[str, Any]
    about: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write ``folder/step-<n>`` by rename; remove all but the newest ``keep``.

    Raises:
        ModelError: the disk is full or the folder cannot be written.
    """
    final = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        if (final / "state.json").is_file():
            return final  # the same step of the same run
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        # One key: the library writes several in no fixed order, and then the digests differ.
        about = {"format": _FORMAT, **checkpoint.about}
        metadata = {"s2v": json.dumps(about, sort_keys=True)}
        digests = {}
        for part in _PARTS:
            path = temporary / f"{part}.safetensors"
            tensors = {
                k: v.detach().cpu().contiguous() for k, v in getattr(checkpoint, part).items()
            }
            save_file(tensors, path, metadata=metadata)
            _sync(path)
            digests[path.name] = sha256_file(path)
        write_json(
            temporary / "state.json",
            {
                "format": _FORMAT,
                "step": checkpoint.step,
                "state": dict(checkpoint.state),
                "about": dict(checkpoint.about),
                "sha256": digests,
            },
        )
        if final.exists():  # an earlier one without its state: not a checkpoint
            shutil.rmtree(final)
        temporary.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ModelError(
            f"{final}: cannot write the checkpoint ({error}); free some space and start again, "
            "it goes on from the one before"
        ) from None
    for old in _steps(folder)[:-keep]:
        # Renamed first: a removal cut short must not leave half a checkpoint.
        gone = old.with_name(f".{old.name}.{os.getpid()}.old")
        old.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return final


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None; also clears what killed processes left behind."""
    if not folder.is_dir():
        return None
    for path in folder.iterdir():
        if path.name.startswith(".step-"):
            shutil.rmtree(path, ignore_errors=True)
    whole = _steps(folder)
    return whole[-1] if whole else None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint whole and check its digests.

    Raises:
        ModelError: a file is missing, changed or of another format.
    """
    described = _state(path)
    for name, digest in described["sha256"].items():
        if not (path / name).is_file() or sha256_file(path / name) != digest:
            raise ModelError(
                f"{path / name}: missing or changed since it was written; remove {path} to go on "
                "from the checkpoint before it"
            )
    parts = {part: load_file(path / f"{part}.safetensors") for part in _PARTS}
    return Checkpoint(
        step=int(described["step"]), state=described["state"], about=described["about"], **parts
    )


def load_weights(path: Path, which: str) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The ``ema`` or ``model`` weights alone.

    Returns:
        ``(weights, about, sha256 of their file)``.

    Raises:
        ModelError: as :func:`load`.
    """
    described = _state(path)
    file = path / f"{which}.safetensors"
    digest = described["sha256"].get(file.name)
    if not file.is_file() or sha256_file(file) != digest:
        raise ModelError(f"{file}: missing or changed since it was written")
    return load_file(file), described["about"], digest


def widths_of(about: Mapping[str, Any]) -> Widths:
    """The network's input widths as stored."""
    return Widths(**about["widths"])


def _state(path: Path) -> dict[str, Any]:
    try:
        described: dict[str, Any] = json.loads((path / "state.json").read_text())
    except FileNotFoundError:
        raise ModelError(f"{path}: no checkpoint here (state.json is missing)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path / 'state.json'}: broken ({error})") from None
    if described.get("format") != _FORMAT:
        raise ModelError(f"{path}: format {described.get('format')!r}, expected {_FORMAT!r}")
    return described


def _steps(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*") if (p / "state.json").is_file())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
