"""Protocols of faces."""

from __future__ import annotations

from typing import Final

from s2v.evals.encoders.production import Encoders
from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.face import FaceSimilarity, cosine, one_minus_distance
from s2v.evals.metrics.identities import IdentitySimilarity

_FACE: Final = "arXiv 2411.17440 (ConsisID), arXiv 2502.11079 table 1: largest face"
_OPENS2V: Final = "arXiv 2505.20292 (OpenS2V-Eval), 32 frames"
_PACK: Final = "insightface is MIT; its packs are for non-commercial research only"
_SAME_DLIB: Final = 0.4
_SAME_SFACE: Final = 0.363
_SAME_ARC: Final = 0.28

FACESIM_DLIB = MetricSpec(
    protocol="facesim.light.dlib",
    version=2,
    family="face",
    title="Face similarity (dlib)",
    unit="1 - distance",
    low=0.0,
    high=1.0,
    direction="higher",
    citation=_FACE,
    licence="YuNet MIT; dlib ResNet-29 and 5-point predictor CC0",
    caveat="not ArcFace: never beside FaceSim-Arc, -Cur or -glink; 0.5 to 0.8 for one person, "
    "under 0.2 for strangers",
    rate="face_rate",
    assets=("yunet", "dlib-face"),
)
FACESIM_SFACE = MetricSpec(
    protocol="facesim.light.sface",
    version=2,
    family="face",
    title="Face similarity (SFace)",
    unit="cosine",
    low=0.0,
    high=1.0,
    direction="higher",
    citation=_FACE,
    licence="YuNet MIT; SFace Apache-2.0",
    caveat="the embedded curation selects pairs with the same network: dlib is the independent one",
    rate="face_rate",
    assets=("yunet", "sface"),
)
IDENTITY_DLIB = MetricSpec(
    protocol="identity.light.dlib",
    version=1,
    family="face",
    title="Identities, matched (dlib)",
    unit="1 - distance",
    low=0.0,
    high=1.0,
    direction="higher",
    citation="Hungarian assignment of references to faces; Phantom (arXiv 2502.11079) leaves "
    "several subjects to raters",
    licence="YuNet MIT; dlib ResNet-29 and 5-point predictor CC0",
    caveat="not published by anybody; success needs every reference at 0.4 in 80 % of the frames",
    rate=None,
    assets=("yunet", "dlib-face"),
)
IDENTITY_SFACE = MetricSpec(
    protocol="identity.light.sface",
    version=1,
    family="face",
    title="Identities, matched (SFace)",
    unit="cosine",
    low=0.0,
    high=1.0,
    direction="higher",
    citation=IDENTITY_DLIB.citation,
    licence="YuNet MIT; SFace Apache-2.0",
    caveat="the embedded curation selects pairs with the same network: dlib is the independent one",
    assets=("yunet", "sface"),
)


def _facesim(
    protocol: str, title: str, citation: str, caveat: str, local: tuple[str, ...], licence: str
) -> MetricSpec:
    return MetricSpec(
        protocol=protocol,
        version=1,
        family="face",
        title=title,
        unit="cosine",
        low=0.0,
        high=1.0,
        direction="higher",
        citation=citation,
        licence=licence,
        caveat=caveat,
        rate="face_rate",
        local=local,
    )


_IR101: Final = (
    "CurricularFace MIT code; the Glint360K weights of ConsisID state no licence of their own, "
    "treat as non-commercial"
)
FACESIM_ARC = _facesim(
    "facesim.arc@buffalo_l",
    "FaceSim-Arc",
    _FACE + ", 16 frames, zeros kept",
    "certain for ConsisID's protocol, likely for Phantom's, whose frame count is not stated",
    ("buffalo_l",),
    _PACK,
)
FACESIM_ARC_OPENS2V = _facesim(
    "facesim.arc@buffalo_l.opens2v",
    "FaceSim-Arc (OpenS2V)",
    _OPENS2V + ", zeros kept: its script compares the list and not the score with zero",
    "not in the leaderboard, which shows FaceSim-Cur",
    ("buffalo_l",),
    _PACK,
)
FACESIM_CUR = _facesim(
    "facesim.cur@ir101",
    "FaceSim-Cur",
    _FACE + ", 16 frames, zeros kept; aligned at 224, shrunk to 112",
    "ConsisID's file is trained on Glint360K, the original release on MS1MV2",
    ("buffalo_l", "ir101"),
    f"{_PACK}; {_IR101}",
)
FACESIM_CUR_OPENS2V = _facesim(
    "facesim.cur@ir101.opens2v",
    "FaceSim-Cur (OpenS2V)",
    _OPENS2V + ", exact zeros dropped",
    "the leaderboard's FaceSim; dropping zeros forgives frames that show somebody else",
    ("buffalo_l", "ir101"),
    f"{_PACK}; {_IR101}",
)
FACESIM_GLINK = _facesim(
    "facesim.glint@antelopev2",
    "FaceSim-glink",
    _FACE + ", 16 frames, zeros kept",
    "Phantom does not say what glink is; read as ArcFace ResNet-100 on Glint360K, uncertain",
    ("antelopev2",),
    _PACK,
)


def _identity(protocol: str, title: str, local: tuple[str, ...], licence: str) -> MetricSpec:
    return MetricSpec(
        protocol=protocol,
        version=1,
        family="face",
        title=title,
        unit="cosine",
        low=0.0,
        high=1.0,
        direction="higher",
        citation=IDENTITY_DLIB.citation,
        licence=licence,
        caveat="not published by anybody; success needs every reference at 0.28 in 80 % of frames",
        local=local,
    )


IDENTITY_ARC = _identity(
    "identity.arc@buffalo_l", "Identities, matched (Arc)", ("buffalo_l",), _PACK
)
IDENTITY_CUR = _identity(
    "identity.cur@ir101",
    "Identities, matched (Cur)",
    ("buffalo_l", "ir101"),
    f"{_PACK}; {_IR101}",
)
IDENTITY_GLINK = _identity(
    "identity.glint@antelopev2", "Identities, matched (glink)", ("antelopev2",), _PACK
)


def _arc(spec: MetricSpec, e: Encoders, frames: int = 16) -> FaceSimilarity:
    return FaceSimilarity(spec, lambda: e.buffalo_l, lambda: e.buffalo_l, cosine, frames=frames)


def _cur(spec: MetricSpec, e: Encoders, frames: int = 16, *, drop: bool = False) -> FaceSimilarity:
    return FaceSimilarity(
        spec, lambda: e.buffalo_l, lambda: e.ir101, cosine, frames=frames, drop_zeros=drop
    )


ENTRIES: tuple[Entry, ...] = (
    (
        FACESIM_DLIB,
        lambda spec, e: FaceSimilarity(
            spec, lambda: e.face_detector, lambda: e.dlib_face, one_minus_distance
        ),
    ),
    (
        FACESIM_SFACE,
        lambda spec, e: FaceSimilarity(spec, lambda: e.face_detector, lambda: e.sface, cosine),
    ),
    (
        IDENTITY_DLIB,
        lambda spec, e: IdentitySimilarity(
            spec,
            lambda: e.face_detector,
            lambda: e.dlib_face,
            one_minus_distance,
            threshold=_SAME_DLIB,
        ),
    ),
    (
        IDENTITY_SFACE,
        lambda spec, e: IdentitySimilarity(
            spec, lambda: e.face_detector, lambda: e.sface, cosine, threshold=_SAME_SFACE
        ),
    ),
    (FACESIM_ARC, _arc),
    (FACESIM_ARC_OPENS2V, lambda spec, e: _arc(spec, e, 32)),
    (FACESIM_CUR, _cur),
    (FACESIM_CUR_OPENS2V, lambda spec, e: _cur(spec, e, 32, drop=True)),
    (
        FACESIM_GLINK,
        lambda spec, e: FaceSimilarity(
            spec, lambda: e.antelopev2, lambda: e.antelopev2, cosine, frames=16
        ),
    ),
    (
        IDENTITY_ARC,
        lambda spec, e: IdentitySimilarity(
            spec, lambda: e.buffalo_l, lambda: e.buffalo_l, cosine, threshold=_SAME_ARC, frames=16
        ),
    ),
    (
        IDENTITY_CUR,
        lambda spec, e: IdentitySimilarity(
            spec, lambda: e.buffalo_l, lambda: e.ir101, cosine, threshold=_SAME_ARC, frames=16
        ),
    ),
    (
        IDENTITY_GLINK,
        lambda spec, e: IdentitySimilarity(
            spec, lambda: e.antelopev2, lambda: e.antelopev2, cosine, threshold=_SAME_ARC, frames=16
        ),
    ),
)
"""Light ones first, then those that need a user's weights."""
