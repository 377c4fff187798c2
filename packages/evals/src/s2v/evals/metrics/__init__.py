"""The protocols this package can compute, and the suites that group them."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import replace
from types import FunctionType
from typing import Any, Final

from s2v.evals.encoders.production import Encoders
from s2v.evals.errors import EvalError
from s2v.evals.metrics.base import Metric, MetricSpec
from s2v.evals.metrics.catalogue import (
    copies,
    faces,
    judgements,
    motions,
    radar,
    subjects,
    texts,
)
from s2v.evals.metrics.catalogue.motions import DYNAMIC
from s2v.evals.opens2v import PROTOCOLS

_METRICS = {
    spec.protocol: (spec, make)
    for family in (faces, subjects, texts, motions, radar, copies, judgements)
    for spec, make in family.ENTRIES
}


def is_light(spec: MetricSpec) -> bool:
    """It is nobody's published number, and runs with what this package can fetch."""
    return ".light" in spec.protocol


def _light(*families: str) -> tuple[str, ...]:
    return tuple(
        p
        for p, (s, _) in _METRICS.items()
        if is_light(s) and (not families or s.family in families)
    )


def _published(*families: str) -> tuple[str, ...]:
    return tuple(
        p
        for p, (s, _) in _METRICS.items()
        if not is_light(s) and s.family in families and s is not texts.GME
    )


_RADAR: Final = tuple(spec.protocol for spec, _ in radar.ENTRIES if is_light(spec))

SUITES: dict[str, tuple[str, ...]] = {
    "light": tuple(p for p in _light() if p not in (*_light("copy"), *_RADAR)),
    "faces": _light("face"),
    "motion": tuple(p for p in _light("motion") if p not in _RADAR),
    "copy": _light("copy"),
    "radar": (*_RADAR, DYNAMIC.protocol),
    "published-faces": _published("face"),
    "published-radar": _published("quality", "consistency", "motion"),
    "published": _published("face", "subject", "text", "quality", "consistency", "motion"),
    "opens2v": tuple(p for p in _METRICS if p in PROTOCOLS.values()),
}
"""Named groups of protocols; those called ``published`` and ``opens2v`` need weights of the user's.

``light`` asks how good a video is, ``radar`` what it looks like, ``copy`` whether it pastes its
references, ``opens2v`` what OpenS2V's total needs and can be measured here; its seven billion
parameters are in that suite alone."""


def specs() -> list[MetricSpec]:
    """Every protocol's description, in suite order."""
    return [spec for spec, _ in _METRICS.values()]


def protocols(suite: str) -> tuple[str, ...]:
    """Protocol ids of a suite, or of a comma-separated list of suites and protocols.

    Raises:
        EvalError: a name that is neither; the nearest known one is named.
    """
    wanted: list[str] = []
    for name in (part.strip() for part in suite.split(",")):
        if name in SUITES:
            wanted.extend(SUITES[name])
        elif name in _METRICS:
            wanted.append(name)
        else:
            known = [*SUITES, *_METRICS]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise EvalError(f"no suite or metric called {name!r}; {hint}")
    return tuple(p for p in _METRICS if p in wanted)


def build(suite: str, encoders: Encoders | None = None) -> list[Metric]:
    """The metrics of a suite; no weights are loaded before the first measurement.

    A protocol that needs a user's weights takes their digests into its description, and, unless
    they are known to be the published files, into its id.

    Args:
        suite: as for `protocols`.
        encoders: shared by all metrics; by default the embedded ones.

    Raises:
        EvalError: unknown suite or metric; weights that no weights file names.
    """
    shared = encoders or Encoders()
    return [
        _METRICS[name][1](_with_digests(_METRICS[name][0], shared), shared)
        for name in protocols(suite)
    ]


def _with_digests(spec: MetricSpec, encoders: Encoders) -> MetricSpec:
    if spec.judge:
        try:
            model = encoders.judge.id
        except EvalError as error:
            raise EvalError(f"{spec.protocol}: {error}") from error
        # The id is a folder of the cache: only plain characters, and a digest for the others.
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", model)[:40]
        sha = hashlib.sha256(model.encode()).hexdigest()
        return replace(
            spec, protocol=f"{spec.protocol}~{plain}-{sha[:8]}", digests=(("judge", sha),)
        )
    if not spec.local:
        return spec
    weights = encoders.weights
    try:
        digests = weights.digests(spec.local)
    except EvalError as error:
        raise EvalError(f"{spec.protocol}: {error}") from error
    return replace(
        spec,
        protocol=spec.protocol + weights.mark(spec.local),
        digests=tuple(sorted(digests.items())),
    )


class _Asked:
    """Stands for the encoders, and remembers which were asked for."""

    def __init__(self) -> None:
        self.roles: list[str] = []

    def __getattr__(self, role: str) -> None:
        self.roles.append(role)


def roles(protocol: str) -> tuple[str, ...]:
    """Names of the encoders that a protocol uses, as attributes of `Encoders`; nothing is loaded.

    Args:
        protocol: its id, without what marks a user's weights.

    Raises:
        EvalError: no such protocol.
    """
    asked: Any = _Asked()
    for name in protocols(protocol):
        spec, make = _METRICS[name]
        # A metric keeps each encoder as a function without arguments that makes it.
        for kept in vars(make(spec, asked)).values():
            if isinstance(kept, FunctionType) and not kept.__code__.co_argcount:
                kept()
    return tuple(dict.fromkeys(asked.roles))
