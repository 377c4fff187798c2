"""Say what a file or folder is: a run, a checkpoint, an autoencoder, another safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2v.model import checkpoint, metrics
from s2v.model.autoencoder import LinearAutoencoder
from s2v.model.errors import ModelError
from s2v.model.run import Run


def describe(path: Path) -> dict[str, Any]:
    """Facts of ``path``, the first of which is ``kind``.

    Raises:
        ModelError: nothing there, or nothing that is known.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    if path.is_file():
        return _file(path)
    if (path / "state.json").is_file():
        return _checkpoint(path)
    if (path / "config.json").is_file():
        return _run(path)
    raise ModelError(f"{path}: neither a run folder nor a checkpoint (no config.json, state.json)")


def _file(path: Path) -> dict[str, Any]:
    if path.suffix in {".pt", ".pth", ".bin", ".ckpt"}:
        raise ModelError(f"{path}: looks like a pickle, which is not opened; give safetensors")
    facts = checkpoint.about_file(path)
    metadata = facts.pop("metadata")
    kind = str(metadata.pop("format", "safetensors of another program"))
    if kind.startswith("s2v-linear-autoencoder"):
        made = LinearAutoencoder.load(path)
        facts |= {
            "fingerprint": made.fingerprint,
            "channels": made.channels,
            "explained": made.explained,
        }
    else:
        facts |= metadata
    return {"kind": kind, **facts}


def _checkpoint(path: Path) -> dict[str, Any]:
    saved = checkpoint.load(path)  # checks every digest
    return {
        "kind": "checkpoint",
        "step": saved.step,
        "parameters": sum(t.numel() for t in saved.model.values()),
        "tensors": len(saved.model),
        "network": saved.about["network"],
        "widths": saved.about["widths"],
        "features": saved.about["features"],
        "drawn": saved.state["plan"]["drawn"],
    }


def _run(path: Path) -> dict[str, Any]:
    run = Run(path)
    run.config()  # raises where it is not one
    newest = checkpoint.latest(run.checkpoints)
    lines = metrics.read(run.metrics)
    return {
        "kind": "run",
        "checkpoint": str(newest) if newest else None,
        "steps_logged": len(lines),
        "last_loss": lines[-1]["loss"] if lines else None,
        "autoencoder": LinearAutoencoder.load(run.autoencoder).fingerprint
        if run.autoencoder.is_file()
        else None,
    }
