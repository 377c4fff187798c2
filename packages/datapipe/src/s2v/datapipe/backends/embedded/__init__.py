"""The embedded profile: every role filled by a small net that comes inside a package.

Factories for :mod:`s2v.datapipe.backends.registry`; none of these backends has options. The
captioner and the detector share one set of proposals, as they ask for the same frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

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
    TextOnThings,
    YuNetSFace,
)
from s2v.datapipe.base.settings import parse
from s2v.datapipe.roles import Model

M = TypeVar("M", bound=Model)


class NoOptions(BaseModel):
    """The embedded nets are what they are."""

    model_config = ConfigDict(extra="forbid")


def _proposer(shared: dict[str, Any]) -> Proposer:
    if "proposer" not in shared:
        shared["proposer"] = Proposer()
    proposer: Proposer = shared["proposer"]
    return proposer


def _factory(
    make: Callable[[dict[str, Any]], M],
) -> Callable[[dict[str, Any], str, dict[str, Any]], M]:
    """A factory of the registry that refuses options."""

    def factory(options: dict[str, Any], where: str, shared: dict[str, Any]) -> M:
        parse(NoOptions, options, where)
        return make(shared)

    return factory


captioner = _factory(lambda shared: FactsCaptioner(_proposer(shared)))
phrases = _factory(lambda shared: ChunkPhrases())
detector = _factory(lambda shared: ProposalDetector(_proposer(shared)))
segmenter = _factory(lambda shared: BoxSegmenter())
faces = _factory(lambda shared: YuNetSFace())
embedder = _factory(lambda shared: AppearanceEmbedder())
text_regions = _factory(lambda shared: TextFinder())
text_reader = _factory(lambda shared: TextOnThings())
safety = _factory(lambda shared: Safety())
