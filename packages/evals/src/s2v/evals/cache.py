"""Measurements kept by what they depend on, so that a killed run goes on where it was.

The key covers everything that can change the number: protocol and version, digests of weights
and media, the prompt where the metric reads it, and the versions of the libraries that compute.
A file name or a sample id is not among them: renaming re-measures nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from s2v.datapipe.base.assets import lookup
from s2v.datapipe.base.atomic import write_bytes
from s2v.evals.encoders.embedded import revisions
from s2v.evals.inspection import Inspected
from s2v.evals.metrics.base import Measurement, MetricSpec

LIBRARIES = (
    "av",
    "decord",
    "dlib-bin",
    "insightface",
    "numpy",
    "onnxruntime",
    "open-clip-torch",
    "opencv-python-headless",
    "pillow",
    "scipy",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)
"""What computes: an upgrade of one may move the last digits, so it is part of every key."""


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Installed version of each of `LIBRARIES`; those absent are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def weight_digests(assets: tuple[str, ...]) -> dict[str, str]:
    """``asset/file`` -> pinned sha256 of everything a metric loads."""
    return {
        f"{name}/{file.path}": file.sha256 for name in sorted(assets) for file in lookup(name).files
    }


def net_revisions(assets: tuple[str, ...]) -> dict[str, int]:
    """Asset -> revision of the code around its weights, for the embedded nets."""
    return {n: revisions()[n] for n in sorted(assets) if n in revisions()}


def key_of(spec: MetricSpec, item: Inspected) -> str:
    """Hex sha256 of all that the measurement depends on."""
    content: dict[str, Any] = {
        "protocol": spec.protocol,
        "version": spec.version,
        "weights": {**weight_digests(spec.assets), **dict(spec.digests)},
        "revisions": net_revisions(spec.assets),
        "libraries": library_versions(),
        "video": item.video_sha256,
    }
    if spec.uses_references:
        content["references"] = [
            [image, mask, ref.is_face, *(["scene"] if ref.is_scene else [])]
            for (image, mask), ref in zip(item.references, item.sample.refs, strict=True)
        ]
    if spec.uses_prompt:
        content["prompt"] = item.sample.prompt_sha256
    return digest(content)


def digest(content: Mapping[str, Any]) -> str:
    """Hex sha256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """One JSON file per measurement below a folder, with a digest of its own content.

    What was cut short, edited or spoilt by a disk is no measurement: without the digest a changed
    figure would look like any other.

    Args:
        folder: created at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, spec: MetricSpec, key: str) -> Path:
        return self._folder / spec.protocol / f"{key}.json"

    def get(self, spec: MetricSpec, key: str) -> Measurement | None:
        """The stored measurement, or None; a damaged file counts as none."""
        try:
            stored = json.loads(self._path(spec, key).read_text(encoding="utf-8"))
            if stored.pop("sha256") != digest(stored):
                return None
            return Measurement(**stored)
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None

    def put(self, spec: MetricSpec, key: str, measurement: Measurement) -> None:
        """Store one measurement, atomically."""
        content = asdict(measurement)
        text = json.dumps({**content, "sha256": digest(content)}, sort_keys=True, allow_nan=False)
        write_bytes(self._path(spec, key), text.encode())
