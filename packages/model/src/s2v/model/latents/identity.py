"""What made an encoded sample, as named fields and as one fingerprint over them.

Everything that changes a feature's values for the same pixels and text stands here; what differs
from sample to sample (its size, its windows, how many references) stands in its entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.atomic import write_json
from s2v.datapipe.base.ids import stable_hash
from s2v.model.config import DataConfig
from s2v.model.errors import ModelError

FORMAT: Final = "s2v-latents-1"
FILE: Final = "encoder.json"
#: Of the code between pixels and encoders; raised when the same pixels give other features.
CODE_VERSION: Final = 3

Fields = dict[str, str | int | float | bool]


def fields(text: str, image: str, video: str, dtype: str, config: DataConfig) -> Fields:
    """All that makes features what they are.

    Args:
        text: id of the text encoder.
        image: id of the image encoder.
        video: fingerprint of the video autoencoder.
        dtype: to which features are rounded, ``float32`` or ``bfloat16``.
        config: its augmentations and padding count; its sizes do not.
    """
    out: Fields = {
        "code": CODE_VERSION,
        "text": text,
        "image": image,
        "video": video,
        "latents.dtype": dtype,
        "latents.mean": True,  # the mode of the posterior, nothing drawn
        "latents.normalised": True,  # whitened by the autoencoder's own numbers
        "data.pad": config.pad,
    }
    for name in ("augment", "augment_references"):
        values: dict[str, Any] = getattr(config, name).model_dump()
        out |= {f"data.{name}.{key}": value for key, value in values.items()}
    return dict(sorted(out.items()))


def fingerprint(made_by: Mapping[str, Any]) -> str:
    """16 hex over the fields."""
    return stable_hash([json.dumps(dict(made_by), sort_keys=True)], 16)


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """The fields that differ, as ``name: HERE here, THERE there``; empty where none does."""
    names = sorted(here.keys() | there.keys())
    return "; ".join(
        f"{name}: {here.get(name, 'absent')!r} here, {there.get(name, 'absent')!r} there"
        for name in names
        if here.get(name) != there.get(name)
    )


def write(folder: Path, made_by: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write ``encoder.json``; what is there and the same is left alone.

    Args:
        folder: of the fingerprint.
        made_by: of :func:`fields`.
        about: more to tell: widths, packages, machine. The first writer's stays.
    """
    path = folder / FILE
    if not path.is_file():
        whole = {"format": FORMAT, "fingerprint": fingerprint(made_by), "made_by": dict(made_by)}
        write_json(path, whole | {"about": dict(about)})


def read(folder: Path) -> dict[str, Any]:
    """``encoder.json`` of a folder, checked.

    Returns:
        ``format``, ``fingerprint``, ``made_by``, ``about``.

    Raises:
        ModelError: missing, damaged, of another version, or its fingerprint is not of its fields.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        said, made_by = found["fingerprint"], found["made_by"]
        version, about = found["format"], found.get("about", {})
    except FileNotFoundError:
        raise ModelError(f"{path}: is missing; this is no folder of `s2v-model encode`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); encode again") from None
    if version != FORMAT:
        raise ModelError(f"{path}: is of format {version!r}, this version reads {FORMAT!r}")
    if not isinstance(made_by, dict) or not isinstance(about, dict):
        raise ModelError(f"{path}: made_by and about must be objects; encode again")
    if fingerprint(made_by) != said:
        raise ModelError(f"{path}: its fingerprint {said} is not that of its fields; encode again")
    return {"format": version, "fingerprint": said, "made_by": made_by, "about": about}
