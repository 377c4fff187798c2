"""In-paired references: from the target clip's own frames (Phantom, section 3.1, 6).

HunyuanCustom trains the first five seconds of a clip and takes references from later ones, so
that the model cannot paste a frame of what it is taught. Which span a trainer takes is its own
affair; the settings say it (``sample.window``, ``sample.window_seconds``), references are taken
far from it where the clip allows, and how far is kept with each reference, to filter by.
"""

from __future__ import annotations

import numpy as np

from s2v.datapipe.pair.columns import Flags, Floats, Ints, runs
from s2v.datapipe.pair.sample_rules import SampleRules


def distances(pts: Ints, start: Ints, end: Ints, rules: SampleRules) -> tuple[Ints, Ints]:
    """Time of frames from the trained span of a clip, and from the middle of that span.

    Args:
        pts: ``[n]`` microseconds of the source.
        start: ``[n]`` where the clip begins.
        end: ``[n]`` where it ends.
        rules: where the span lies and how long it is.

    Returns:
        ``[n]`` microseconds each; 0 from the span is inside it. A clip not longer than the span
        is inside it whole.
    """
    length = np.minimum(round(rules.window_seconds * 1e6), end - start)
    begin = start if rules.window == "start" else (start + end) // 2 - length // 2
    outside = np.maximum(np.maximum(begin - pts, pts - (begin + length)), 0)
    centre = begin + length // 2 if rules.window == "start" else (start + end) // 2
    return outside, np.abs(pts - centre)


def in_references(subject: Ints, from_middle: Ints, quality: Floats) -> Ints:
    """The detection that each subject's in-paired reference is cut from.

    The one farthest from the middle of the trained span, so the farthest outside it where any
    is; of those as far the best picture, then the first.

    Args:
        subject: ``[n]`` whose detection it is, ascending; of one subject they are sorted by id.
        from_middle: of :func:`distances`.
        quality: how good a picture each is, 0..1.

    Returns:
        One position in ``[n]`` per subject that has any, by subject.
    """
    edges = runs(subject)
    if len(edges) == 1:
        return np.zeros(0, np.int64)
    group = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    open_to: Flags = np.ones(len(subject), np.bool_)
    for value in (from_middle, quality):
        best = np.maximum.reduceat(np.where(open_to, value, -1), edges[:-1])
        open_to &= value == best[group]
    at = np.flatnonzero(open_to)
    return np.asarray(at[runs(group[at])[:-1]], np.int64)
