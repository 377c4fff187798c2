"""Which of our protocols follows which published column, and how sure that is.

Two numbers of one name are one number only if they follow one definition. This table is the
only door through which one of our figures may stand in a column of published ones; whatever is
not in it stands in a table of its own. No ``.light`` protocol may be in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Certainty = Literal["high", "medium", "low"]


@dataclass(frozen=True)
class Follows:
    """A protocol of ours re-implements a published column.

    Attributes:
        source: how the published ``source`` begins.
        metric: the published column.
        certainty: that the two definitions are one.
        why: what is known and what is assumed.
    """

    source: str
    metric: str
    certainty: Certainty
    why: str


_PHANTOM = "Phantom ICCV"
_CONSISID = "ConsisID"
_ARC = "insightface buffalo_l: SCRFD-10GF and ArcFace R50 of WebFace600K"
_CUR = "CurricularFace IR-101 of Glint360K, aligned at 224 and resized to 112"

FOLLOWS: dict[str, tuple[Follows, ...]] = {
    "facesim.arc@buffalo_l": (
        Follows(_CONSISID, "facesim_arc", "high", f"{_ARC}; ConsisID's script"),
        Follows(_PHANTOM, "facesim_arc", "medium", f"{_ARC}; Phantom does not name its frames"),
    ),
    "facesim.cur@ir101": (
        Follows(_CONSISID, "facesim_cur", "high", f"{_CUR}; ConsisID's script"),
        Follows(_PHANTOM, "facesim_cur", "medium", f"{_CUR}; Phantom does not name its weights"),
    ),
    "facesim.glint@antelopev2": (
        Follows(
            _PHANTOM,
            "facesim_glink",
            "low",
            "ResNet-100 of Glint360K; the paper does not say what 'glink' stands for",
        ),
    ),
}


def follows(protocol: str, source: str, metric: str) -> Follows | None:
    """How a protocol of ours relates to a published column, or None: not comparable.

    Args:
        protocol: our id. A ``.light`` id follows nothing, whatever stands in the table.
        source: as in `PublishedRow`.
        metric: likewise.
    """
    if ".light" in protocol:
        return None
    for one in FOLLOWS.get(protocol, ()):
        if source.startswith(one.source) and metric == one.metric:
            return one
    return None
