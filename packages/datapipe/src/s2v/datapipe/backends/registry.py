"""Which backends fill which role: the only place that names them.

A backend is ``module:factory``. Modules are light to import; a factory parses its options, and
the model's weights are loaded by its ``load()``. Options that a backend does not know are errors
that name the nearest known one.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import OPTIONAL, Model, Roles

#: Called with the role's options, where they stand (for messages), and a place to share nets in.
Factory = Callable[[dict[str, Any], str, dict[str, Any]], Model]

NONE: Final = "none"  # leaves an optional role empty

_HERE = "s2v.datapipe.backends"

#: Role -> backend -> factory.
BACKENDS: Final[dict[str, dict[str, str]]] = {
    "captioner": {
        "facts": f"{_HERE}.embedded:captioner",
        "vlm": f"{_HERE}.vlm.captioner:captioner",
    },
    "phrases": {
        "chunks": f"{_HERE}.embedded:phrases",
        "vlm": f"{_HERE}.vlm.phrases:phrases",
    },
    "detector": {
        "proposals": f"{_HERE}.embedded:detector",
        "grounding_dino": f"{_HERE}.grounding_dino:detector",
        "groundingdino_py": f"{_HERE}.groundingdino_py:detector",
        "vlm": f"{_HERE}.vlm.boxes:detector",
    },
    "checker": {
        "vlm": f"{_HERE}.vlm.checker:checker",
    },
    "verifier": {
        "vlm": f"{_HERE}.vlm.verifier:verifier",
    },
    "segmenter": {
        "u2netp": f"{_HERE}.embedded:segmenter",
        "segment_anything": f"{_HERE}.segment_anything:segmenter",
    },
    "faces": {
        "yunet_sface": f"{_HERE}.embedded:faces",
        "insightface": f"{_HERE}.insightface:faces",
    },
    "embedder": {
        "appearance": f"{_HERE}.embedded:embedder",
        "open_clip": f"{_HERE}.open_clip:embedder",
    },
    "text_regions": {"rapidocr": f"{_HERE}.embedded:text_regions"},
    "text_reader": {"rapidocr": f"{_HERE}.embedded:text_reader"},
    "safety": {"opennsfw": f"{_HERE}.embedded:safety"},
    "aesthetics": {"laion": f"{_HERE}.open_clip:aesthetics"},
    "shots": {"transnetv2": f"{_HERE}.transnet:shots"},
}

#: Profile -> role -> backend.
PROFILES: Final[dict[str, dict[str, str]]] = {
    "embedded": {
        "captioner": "facts",
        "phrases": "chunks",
        "detector": "proposals",
        "checker": NONE,
        "verifier": NONE,
        "segmenter": "u2netp",
        "faces": "yunet_sface",
        "embedder": "appearance",
        "text_regions": "rapidocr",
        "text_reader": "rapidocr",
        "safety": "opennsfw",
        "aesthetics": NONE,
        "shots": NONE,
    },
    "production": {
        "captioner": "vlm",
        "phrases": "vlm",
        "detector": "grounding_dino",
        "checker": "vlm",
        "verifier": "vlm",
        "segmenter": "segment_anything",
        "faces": "insightface",
        "embedder": "open_clip",
        "text_regions": "rapidocr",
        "text_reader": "rapidocr",
        "safety": "opennsfw",
        "aesthetics": "laion",
        "shots": "transnetv2",
    },
}


def fill(profile: str, chosen: Mapping[str, tuple[str | None, dict[str, Any]]]) -> Roles:
    """Fill all roles; no weights are loaded yet.

    Args:
        profile: a key of :data:`PROFILES`.
        chosen: role -> backend (``None``: the profile's) and its options.

    Raises:
        SettingsError: an unknown backend or option, or a role that cannot stay empty.
        WeightsError, AssetMissing: weights that the model's id needs are not there.
    """
    shared: dict[str, Any] = {}
    filled: dict[str, Model | None] = {}
    for role, backends in BACKENDS.items():
        backend, options = chosen.get(role, (None, {}))
        name = backend or PROFILES[profile][role]
        where = f"roles.{role}"
        if name == NONE:
            if role not in OPTIONAL:
                raise SettingsError(f"{where}: this role cannot stay empty; {_known(backends)}")
            filled[role] = None
        elif name not in backends:
            near = difflib.get_close_matches(name, backends, n=1)
            hint = f"did you mean {near[0]!r}?" if near else _known(backends)
            raise SettingsError(f"{where}.backend: unknown backend {name!r}; {hint}")
        else:
            filled[role] = factory(backends[name])(dict(options), where, shared)
    return Roles(**filled)  # type: ignore[arg-type]  # BACKENDS says which role a factory fills


def factory(reference: str) -> Factory:
    """Import ``module:name``."""
    module, _, name = reference.partition(":")
    made: Factory = getattr(importlib.import_module(module), name)
    return made


def _known(backends: Mapping[str, str]) -> str:
    return f"known backends: {', '.join(sorted(backends))}"
