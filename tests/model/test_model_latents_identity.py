"""Whatever changes a feature's numbers changes the fingerprint that it lies under."""

from __future__ import annotations

from typing import Any

import pytest

from s2v.model.config import DataConfig
from s2v.model.latents import identity

MADE: dict[str, Any] = {"text": "t", "image": "i", "video": "v", "dtype": "float32"}


def _fields(config: DataConfig, **made: str) -> identity.Fields:
    return identity.fields(**{**MADE, **made}, config=config)


def _others() -> list[tuple[str, DataConfig]]:
    """The plain settings with one value changed that stands in stored pixels."""
    plain = DataConfig()
    out = [("data.pad", plain.model_copy(update={"pad": "grey"}))]
    for section in ("augment", "augment_references"):
        inner = getattr(plain, section)
        for key, value in inner.model_dump().items():
            changed = not value if isinstance(value, bool) else value + 0.01
            other = inner.model_copy(update={key: changed})
            out.append((f"data.{section}.{key}", plain.model_copy(update={section: other})))
    return out


@pytest.mark.parametrize(("name", "config"), _others(), ids=[name for name, _ in _others()])
def test_features_of_other_pixels_are_never_taken_for_these(name: str, config: DataConfig) -> None:
    plain, other = _fields(DataConfig()), _fields(config)
    assert identity.fingerprint(plain) != identity.fingerprint(other)
    assert identity.differences(plain, other).startswith(f"{name}: ")


@pytest.mark.parametrize("name", sorted(MADE))
def test_features_of_other_encoders_are_never_taken_for_these(name: str) -> None:
    plain, other = _fields(DataConfig()), _fields(DataConfig(), **{name: "other"})
    assert identity.fingerprint(plain) != identity.fingerprint(other)
    assert name in identity.differences(plain, other)


def test_sizes_and_mixtures_share_a_folder() -> None:
    other = DataConfig(height=64, frames=5, mix={"in": 1.0})
    assert _fields(other) == _fields(DataConfig())
