"""The embedded profile: every role filled by a small net that comes inside a package."""

from __future__ import annotations

from s2v.datapipe.backends.embedded.captioner import FactsCaptioner
from s2v.datapipe.backends.embedded.detector import ProposalDetector
from s2v.datapipe.backends.embedded.phrases import ChunkPhrases
from s2v.datapipe.backends.embedded.proposals import Proposer
from s2v.datapipe.backends.embedded.small import (
    AppearanceEmbedder,
    BoxSegmenter,
    Safety,
    TextShare,
    YuNetSFace,
)
from s2v.datapipe.roles import Roles


def embedded_roles(*, text_regions: bool = True, safety: bool = True) -> Roles:
    """Fill all roles; nothing is loaded yet.

    Raises:
        AssetMissing: a weight file has not been fetched.
    """
    proposer = Proposer()  # shared: captioner and detector ask for the same frames
    return Roles(
        captioner=FactsCaptioner(proposer),
        phrases=ChunkPhrases(),
        detector=ProposalDetector(proposer),
        segmenter=BoxSegmenter(),
        faces=YuNetSFace(),
        embedder=AppearanceEmbedder(),
        text_regions=TextShare() if text_regions else None,
        safety=Safety() if safety else None,
    )
