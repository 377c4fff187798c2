"""Say what a file or folder is: a run, a checkpoint, an autoencoder, or anybody's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2v.model import checkpoint, metrics
from s2v.model.autoencoder import LinearAutoencoder
from s2v.model.checkpoints import identify as ident
from s2v.model.checkpoints.loading import wan_fits
from s2v.model.checkpoints.weights import Weights, groups, of_group, open_weights
from s2v.model.checkpoints.writing import digests
from s2v.model.errors import ModelError
from s2v.model.run import Run


def describe(path: Path, *, digest: bool = True) -> dict[str, Any]:
    """Facts of ``path``, the first of which is ``kind``.

    Args:
        path: a file, an index of shards, or a folder.
        digest: also the sha256 of every file of weights, as hubs show it; this reads them whole.

    Raises:
        ModelError: nothing there, a broken file, or nothing that is known.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    if path.is_file():
        return _weights(open_weights(path), digest)
    if not path.is_dir():
        raise ModelError(f"{path}: neither a file nor a folder")
    if (path / "state.json").is_file():
        return _checkpoint(path)
    if (path / "config.toml").is_file() or (path / "checkpoints").is_dir():
        return _run(path)
    if found := _folder(path, digest):
        return found
    if (path / "config.json").is_file():
        return _run(path)
    raise ModelError(
        f"{path}: neither a run folder nor a checkpoint nor weights (no config.json, no "
        "state.json, no safetensors or .pth)"
    )


def _folder(path: Path, digest: bool) -> dict[str, Any]:
    """One model's facts, or those of each that the folder and its component folders hold."""
    places = [path, *sorted(p for p in path.iterdir() if p.is_dir() and not p.is_symlink())]
    found = [group for place in places for group in groups(place)]
    if len(found) == 1:
        return _weights(of_group(found[0]), digest)
    told: dict[str, Any] = {}
    for group in found:
        name = str(group[0].relative_to(path))
        try:
            told[name] = _weights(of_group(group), digest)
        except ModelError as error:  # the others are still worth a look
            told[name] = {"kind": "unreadable", "why": str(error)}
    pipeline = (path / "model_index.json").is_file()
    return {"kind": "diffusers folder" if pipeline else "folder", **told} if told else {}


def _weights(weights: Weights, digest: bool) -> dict[str, Any]:
    told = _our_metadata(weights)
    size = {"tensors": len(weights.entries), "parameters": weights.parameters}
    files = {"files": digests(weights.files)} if digest else {}
    kind = str(told.pop("format", ""))
    if kind.startswith("s2v-linear-autoencoder"):
        made = LinearAutoencoder.load(weights.path)
        facts = {
            "fingerprint": made.fingerprint,
            "channels": made.channels,
            "explained": made.explained,
        }
        return {"kind": kind, **size, **facts, **files}
    if kind.startswith("s2v-") and not kind.startswith("s2v-export"):
        return {"kind": kind, **size, **told, **files}
    return {**_foreign(weights), **size, **files}


def _foreign(weights: Weights) -> dict[str, Any]:
    identity = ident.identify(weights)
    facts: dict[str, Any] = {
        "kind": identity.kind,
        "model": identity.model,
        "layout": identity.layout,
        "container": weights.container,
        "dtypes": weights.dtypes,
        "size_bytes": sum(file.stat().st_size for file in weights.files),
    }
    facts |= identity.sizes
    if identity.kind == ident.WAN:
        try:
            facts["heads"] = ident.wan_config(weights, identity).heads
        except ModelError:
            facts["heads"] = None
        facts["loads"] = _loads(weights, identity)
        # What a network was trained for stands in no file: T2V weights run with references too.
        facts["references"] = (
            "0-4 at the tail of time" if identity.sizes["in_channels"] == 16 else 0
        )
    return facts


def _loads(weights: Weights, identity: ident.Identity) -> str:
    """``yes``, or why the network does not take these tensors; nothing is read."""
    try:
        wan_fits(weights, identity)
    except ModelError as error:
        return "no: " + str(error).removeprefix(f"{weights.path}: ")
    return "yes"


def _our_metadata(weights: Weights) -> dict[str, Any]:
    try:
        said = json.loads(weights.metadata.get("s2v", "{}"))
    except ValueError:
        return {}
    return dict(said) if isinstance(said, dict) else {}


def _checkpoint(path: Path) -> dict[str, Any]:
    saved = checkpoint.describe(path)
    weights = checkpoint.open_weights(path, "model", verify=True)
    return {
        "kind": "checkpoint",
        "step": saved.step,
        "parameters": weights.parameters,
        "tensors": len(weights.entries),
        "files": sum(len(files) for files in saved.files.values()),
        "written_by": dict(saved.written_by),
        "network": saved.about["network"],
        "widths": saved.about["widths"],
        "features": saved.about["features"],
        "drawn": _drawn(saved.state["plan"]),
    }


def _drawn(plan: dict[str, Any]) -> dict[str, int]:
    """Samples per source so far; the first format's plan was the stream itself."""
    return dict(plan.get("plan", plan).get("drawn", {}))


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
