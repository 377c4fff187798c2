"""The detectors and segmenters of the contract tests, each as its factory makes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models

from s2v.datapipe.backends import registry
from s2v.datapipe.base import assets
from s2v.datapipe.roles import Detector, Image, Phrase, Segmenter

#: One folder per test session; the models in it are written when first asked for.
Folder = Callable[[str], Path]


def make(role: str, backend: str, **options: Any) -> Any:
    """What the registry makes of a backend's name and options."""
    factory = registry.factory(registry.BACKENDS[role][backend])
    return factory(options, f"roles.{role}", {})


@cache
def written(root: Path, kind: str, seed: int = 0) -> Path:
    """A tiny model on disk, written once per session."""
    folder = root / f"{kind}-{seed}"
    if kind == "grounding_dino":
        return tiny_models.write_grounding_dino(folder, seed)
    if kind == "groundingdino_py":
        return tiny_models.write_groundingdino_py(folder, seed)
    return tiny_models.write_sam(folder / "sam.pth", seed)


def detector(root: Path, backend: str, **options: Any) -> Detector:
    """A detector by its backend's name, not loaded."""
    if backend == "proposals":
        assets.fetch(["ssd-mobilenet-v2", "u2netp", "efficientnet-lite3", "yunet"])
        made = make("detector", backend, **options)
    elif backend == "grounding_dino":
        weights = str(written(root, backend))
        made = make("detector", backend, **{"weights": weights, **options})
    else:
        folder = written(root, "groundingdino_py")
        told = {
            "weights": str(folder / "model.pth"),
            "config": str(folder / "config.py"),
            "text_encoder": str(folder / "bert"),
            "short_side": 96,
            "long_side": 160,
        }
        made = make("detector", backend, **{**told, **options})
    assert isinstance(made.model_id, str)
    return made  # type: ignore[no-any-return]  # the registry makes any role


def segmenter(root: Path, backend: str, **options: Any) -> Segmenter:
    """A segmenter by its backend's name, not loaded."""
    if backend == "u2netp":
        assets.fetch(["u2netp"])
        return make("segmenter", backend, **options)  # type: ignore[no-any-return]  # as above
    told = {"weights": str(written(root, "sam")), "architecture": tiny_models.SAM_ARCHITECTURE}
    return make("segmenter", backend, **{**told, **options})  # type: ignore[no-any-return]  # as above


def phrase(text: str, noun: str = "person", bank: str = "person") -> Phrase:
    """A phrase as the detector is given it."""
    return Phrase(text, 0, len(text), noun, bank)


def noise(height: int, width: int, seed: int = 0) -> Image:
    """Coloured patches, so that nets see something at every size."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (max(1, height // 12), max(1, width // 12), 3), dtype=np.uint8)
    rows = np.arange(height) * patches.shape[0] // height
    columns = np.arange(width) * patches.shape[1] // width
    return np.ascontiguousarray(patches[rows][:, columns])
