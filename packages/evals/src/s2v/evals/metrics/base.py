"""What every metric is: a described, versioned way from one video to one number."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from s2v.evals.encoders import Image, Mask

T = TypeVar("T")
Status = Literal["scored", "not_applicable", "failed"]
Direction = Literal["higher", "lower", "neither"]

DIGITS = 6
"""Scores are rounded to this before they are stored: the same run gives the same bytes."""


@dataclass(frozen=True)
class MetricSpec:
    """What a reader needs to know before comparing two numbers.

    Attributes:
        protocol: unique id; numbers with different ids are never compared.
        version: raised whenever the number can change; part of the cache key.
        family: ``face``, ``subject``, ``text``, ``motion``, ``quality``, ``consistency``,
            ``copying`` or ``judged``.
        title: for tables.
        unit: of the score.
        low: smallest possible score.
        high: largest possible score, or None if unbounded.
        direction: which way is better; ``neither`` where more is not better.
        kind: ``mean`` of scores, or ``rate`` of zeros and ones.
        rate: name of the part that says on what share of frames the score stands, or None.
        citation: where the definition comes from.
        licence: of the weights.
        caveat: what the number does not mean.
        assets: names of the pinned weights it uses; their digests are part of the cache key.
        local: names of the weights that a user must have on disk (`s2v.evals.encoders.local`).
        digests: ``name/file`` -> sha256 of those, filled in when the metric is built.
        judge: it asks a model behind an endpoint, whose name becomes part of the id.
        uses_prompt: the score depends on the prompt.
        uses_references: the score depends on the references.
    """

    protocol: str
    version: int
    family: str
    title: str
    unit: str
    low: float
    high: float | None
    direction: Direction
    citation: str
    licence: str
    caveat: str
    kind: Literal["mean", "rate"] = "mean"
    rate: str | None = None
    assets: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()
    judge: bool = False
    uses_prompt: bool = False
    uses_references: bool = True


@dataclass(frozen=True, eq=False)
class RefImage:
    """A loaded reference.

    Attributes:
        image: RGB uint8 (H, W, 3).
        mask: (H, W) bool on the subject, or None.
        phrase: words that name it.
        is_face: face similarity is measured on it.
        is_scene: a place; there is no subject to cut out.
    """

    image: Image
    mask: Mask | None = None
    phrase: str = ""
    is_face: bool = False
    is_scene: bool = False


@dataclass(eq=False)
class Case:
    """One video as the metrics see it.

    Attributes:
        frames: the decoded frames that any metric's plan named, by index.
        times_us: presentation time of every frame of the video, also of those not decoded.
        references: in the manifest's order.
        prompt: the words it was made from.
    """

    frames: Mapping[int, Image]
    times_us: Sequence[int]
    references: tuple[RefImage, ...] = ()
    prompt: str = ""
    _memo: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def once(self, key: Hashable, make: Any) -> Any:
        """What ``make()`` returns, computed once per case: detections serve several metrics."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]


@dataclass(frozen=True)
class Measurement:
    """What one metric says of one video.

    Attributes:
        status: ``not_applicable`` when the sample has nothing to measure (no face reference),
            ``failed`` when it should have been measured and could not.
        reason: short code for status other than ``scored``.
        score: the number, rounded; None unless scored.
        parts: named companions (rates, minima), rounded.
        vectors: what `Metric.baselines` needs, as nested lists of rounded numbers.
    """

    status: Status
    reason: str = ""
    score: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    vectors: Mapping[str, list[list[float]]] = field(default_factory=dict)

    def array(self, name: str) -> npt.NDArray[np.float64]:
        """One of ``vectors`` as (N, D) float64."""
        return np.asarray(self.vectors[name], dtype=np.float64)


@dataclass(frozen=True)
class Peer:
    """A measurement with what tells whether another one is independent of it."""

    reference_id: str
    prompt: str
    measurement: Measurement


class Metric(Protocol):
    """A protocol id with its computation."""

    @property
    def spec(self) -> MetricSpec:
        """The description that is stored with every number."""

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Indices of the frames that `measure` will look at, given all presentation times."""

    def measure(self, case: Case) -> Measurement:
        """Score one video."""

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """Chance level of each scored video: its score against the *other* samples' inputs."""


def scored(
    score: float,
    parts: Mapping[str, float] | None = None,
    vectors: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Measurement:
    """A scored measurement, rounded.

    Raises:
        ValueError: the score or a part is not finite; NaN must not reach a mean.
    """
    numbers = {"score": float(score), **{k: float(v) for k, v in (parts or {}).items()}}
    bad = sorted(k for k, v in numbers.items() if not np.isfinite(v))
    if bad:
        raise ValueError(f"not finite: {', '.join(bad)}")
    rounded = {k: round(v, DIGITS) + 0.0 for k, v in numbers.items()}
    return Measurement(
        status="scored",
        score=rounded.pop("score"),
        parts=rounded,
        vectors={
            k: np.round(np.atleast_2d(v).astype(np.float64), DIGITS).tolist()
            for k, v in (vectors or {}).items()
        },
    )


def not_applicable(reason: str) -> Measurement:
    """The sample has nothing this metric is about."""
    return Measurement("not_applicable", reason)


def failed(reason: str) -> Measurement:
    """The sample should have been measured; it stays counted among the expected."""
    return Measurement("failed", reason)
