"""The embedded profile: every role filled by a small net that comes inside a package.

Factories for :mod:`s2v.datapipe.backends.registry`; none of these backends has options. The
captioner and the detector share one set of proposals, as they ask for the same frames.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from s2v.datapipe.backends.embedded.captioner import FactsCaptioner
from s2v.datapipe.backends.embedded.detector import ProposalDetector
from s2v.datapipe.backends.embedded.phrases import ChunkPhrases
from s2v.datapipe.backends.embedded.proposals import Proposer
from s2v.datapipe.backends.embedded.small import (
    AppearanceEmbedder,
    BoxSegmenter,
    Safety,
    TextFinder,
    YuNetSFace,
)
from s2v.datapipe.base.settings import parse


class NoOptions(BaseModel):
    """The embedded nets are what they are."""

    model_config = ConfigDict(extra="forbid")


def _proposer(shared: dict[str, Any]) -> Proposer:
    proposer: Proposer = shared.setdefault("proposer", None) or Proposer()
    shared["proposer"] = proposer
    return proposer


def captioner(options: dict[str, Any], where: str, shared: dict[str, Any]) -> FactsCaptioner:
    """The measured-facts captioner."""
    parse(NoOptions, options, where)
    return FactsCaptioner(_proposer(shared))


def phrases(options: dict[str, Any], where: str, shared: dict[str, Any]) -> ChunkPhrases:
    """spaCy's noun chunks."""
    parse(NoOptions, options, where)
    return ChunkPhrases()


def detector(options: dict[str, Any], where: str, shared: dict[str, Any]) -> ProposalDetector:
    """SSD and salient proposals."""
    parse(NoOptions, options, where)
    return ProposalDetector(_proposer(shared))


def segmenter(options: dict[str, Any], where: str, shared: dict[str, Any]) -> BoxSegmenter:
    """U2-Net-p on the box."""
    parse(NoOptions, options, where)
    return BoxSegmenter()


def faces(options: dict[str, Any], where: str, shared: dict[str, Any]) -> YuNetSFace:
    """YuNet and SFace."""
    parse(NoOptions, options, where)
    return YuNetSFace()


def embedder(options: dict[str, Any], where: str, shared: dict[str, Any]) -> AppearanceEmbedder:
    """MobileNetV2 and colours."""
    parse(NoOptions, options, where)
    return AppearanceEmbedder()


def text_regions(options: dict[str, Any], where: str, shared: dict[str, Any]) -> TextFinder:
    """RapidOCR's detector."""
    parse(NoOptions, options, where)
    return TextFinder()


def safety(options: dict[str, Any], where: str, shared: dict[str, Any]) -> Safety:
    """OpenNSFW."""
    parse(NoOptions, options, where)
    return Safety()
