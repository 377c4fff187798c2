"""Which of our protocols follows which published column, and how sure that is.

Two numbers of one name are one number only if they follow one definition. This table is the
only door through which one of our figures may stand in a column of published ones, and through
which published ones may stand beside ours; whatever is not in it stands in a table of its own. No
``.light`` protocol may be in it.

Left out although their names agree, because their definitions do not or are not known: the
``.seg`` forms (Phantom grounds and segments the named subject, ours takes what stands out), clarity
and aesthetics of Phantom's ablation (they fit VBench's scale and are not said to be VBench's),
OpenS2V's Aesthetics (clipped per video before the mean, which a mean cannot be: `s2v-eval total`
does it), Phantom-Data's and A2-Bench's columns (their tables do not say how).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from s2v.evals.reference import published

Certainty = Literal["high", "medium", "low"]
_ORDER: tuple[Certainty, ...] = ("high", "medium", "low")


@dataclass(frozen=True)
class Follows:
    """A protocol of ours re-implements a published column.

    Attributes:
        source: how the published ``source`` begins.
        metric: the published column.
        certainty: that the two definitions are one.
        why: what is known and what is assumed.
        factor: from our unit to the column's.
        any_weights: nobody published which file is behind the column, so an id that is marked
            with a digest may stand in it, too; the certainty is then low, and the mark is shown.
            Otherwise only the published files, whose id has no mark, follow it.
    """

    source: str
    metric: str
    certainty: Certainty
    why: str
    factor: float = 1.0
    any_weights: bool = False

    def __post_init__(self) -> None:
        if self.any_weights and self.certainty != "low":
            raise ValueError(f"{self.metric}: unknown weights are followed with low certainty")


_PHANTOM = "Phantom ICCV"
_CONSISID = "ConsisID"
_OPENS2V = "OpenS2V-Eval leaderboard"
_ARC = "insightface buffalo_l: SCRFD-10GF and ArcFace R50 of WebFace600K"
_CUR = "CurricularFace IR-101 of Glint360K, aligned at 224 and resized to 112"
_VICLIP = (
    "cosine of InternVideo's ViCLIP x100; the paper names neither checkpoint nor preprocessing, "
    "this is "
)
_WHOLE = "ten uniform frames, whole, against the reference; the paper "
_FLOW = "Farneback on all frames, signed mean, at most 1, in per cent"

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
    "facesim.cur@ir101.opens2v": (
        Follows(
            _OPENS2V, "FaceSim", "high", f"{_CUR}; OpenS2V's script, zeros dropped; per cent", 100
        ),
    ),
    "motion-amplitude@opens2v": (
        Follows(_OPENS2V, "MotionAmplitude", "high", f"{_FLOW}; OpenS2V's script", 100),
        Follows(_OPENS2V, "Motion", "high", f"{_FLOW}; OpenS2V's v1.0 script", 100),
    ),
    "gme-score@gme-qwen2-vl.opens2v": (
        Follows(
            _OPENS2V, "GmeScore", "low",
            "OpenS2V's script, in per cent; its GME-Qwen2-VL-7B is named and its digest is not, so "
            "look which release these weights are",
            100, any_weights=True,
        ),
    ),
    "viclip-t@internvid": (
        Follows(_PHANTOM, "viclip_t", "low", f"{_VICLIP}InternVid's demo", any_weights=True),
    ),
    "viclip-t@vbench": (
        Follows(_PHANTOM, "viclip_t", "low", f"{_VICLIP}VBench's", any_weights=True),
    ),
    "clip-i@open_clip": (
        Follows(
            _PHANTOM, "clip_i", "low", f"{_WHOLE}cites OpenCLIP and names no checkpoint",
            any_weights=True,
        ),
    ),
    "dino-i@dinov2": (
        Follows(
            _PHANTOM, "dino_i", "low", f"{_WHOLE}cites DINOv2 and names no checkpoint",
            any_weights=True,
        ),
    ),
}  # fmt: skip


def follows(protocol: str, source: str, metric: str) -> Follows | None:
    """How a protocol of ours relates to a published column, or None: not comparable.

    Args:
        protocol: our id, with the mark of its weights if it has one. A ``.light`` id follows
            nothing, whatever stands in the table.
        source: as in `PublishedRow`.
        metric: likewise.
    """
    if ".light" in protocol:
        return None
    name, _, mark = protocol.partition("~")
    for one in FOLLOWS.get(name, ()):
        if source.startswith(one.source) and metric == one.metric and (one.any_weights or not mark):
            return one
    return None


def rank(one: Follows) -> int:
    """0 for the surest."""
    return _ORDER.index(one.certainty)


@dataclass(frozen=True)
class PublishedColumn:
    """A published column that a protocol of ours follows.

    Attributes:
        source: paper or leaderboard.
        table: within it.
        split: test set.
        metric: its name there.
        unit: of its figures.
        certainty: that it is our protocol's number.
        why: what is known and what is assumed.
        factor: from our unit to its.
        figures: model and value, in the table's order.
    """

    source: str
    table: str
    split: str
    metric: str
    unit: str
    certainty: Certainty
    why: str
    factor: float
    figures: tuple[tuple[str, float], ...]

    @property
    def place(self) -> str:
        """Source, table, test set and column, for a heading."""
        return f"{self.source}, {self.table}: {self.split}: {self.metric}"


def beside(protocol: str) -> tuple[PublishedColumn, ...]:
    """The published columns that may stand beside a protocol of ours; none where none follows.

    Args:
        protocol: as for `follows`.
    """
    rows = published()
    columns = []
    for key in dict.fromkeys((r.source, r.table, r.split, r.metric, r.unit) for r in rows):
        source, table, split, metric, unit = key
        one = follows(protocol, source, metric)
        if one is None:
            continue
        figures = tuple(
            (r.model, r.value)
            for r in rows
            if (r.source, r.table, r.split, r.metric, r.unit) == key
        )
        columns.append(
            PublishedColumn(
                source, table, split, metric, unit, one.certainty, one.why, one.factor, figures
            )
        )
    return tuple(columns)
