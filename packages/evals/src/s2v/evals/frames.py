"""Which frames of a video are looked at: one shared, tested set of rules.

The published harnesses differ here (ConsisID and OpenS2V: linspace; VBench: interval middles;
InternVid: the head of a stride), and the difference alone moves a score.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

Sampler = Callable[[int, int], list[int]]
"""(number of frames N, wanted k) -> sorted distinct indices in [0, N)."""


def _check(n: int, k: int) -> None:
    if n < 1 or k < 1:
        raise ValueError(f"cannot sample {k} frames of a video with {n}")


def linspace_inclusive(n: int, k: int) -> list[int]:
    """First to last frame, evenly, truncated to integers (ConsisID, OpenS2V, Phantom's ten).

    With fewer frames than asked for, every frame once: repeats would weigh some frames double.
    """
    _check(n, k)
    if n <= k:
        return list(range(n))
    return [int(i) for i in np.linspace(0, n - 1, k)]


def interval_middle(n: int, k: int) -> list[int]:
    """The middle frame of each of k equal intervals (VBench, overall consistency)."""
    _check(n, k)
    edges = [int(e) for e in np.linspace(0, n, min(n, k) + 1)]
    return [(low + high - 1) // 2 for low, high in pairwise(edges)]


def stride_head(n: int, k: int) -> list[int]:
    """The first k multiples of ``n // k``: the tail is never seen (InternVid's demo).

    Raises:
        ValueError: fewer than k frames, where the original asserts.
    """
    _check(n, k)
    if n < k:
        raise ValueError(f"stride_head needs at least {k} frames, the video has {n}")
    return [i * (n // k) for i in range(k)]


def floor_i(n: int, k: int) -> list[int]:
    """``floor(i * n / k)``: starts of k intervals (ConsisID's CLIPScore)."""
    _check(n, k)
    return sorted({i * n // k for i in range(k)})


def every(n: int, k: int = 1) -> list[int]:
    """All frames."""
    _check(n, k)
    return list(range(n))


def near_pairs(times_us: list[int], k: int, gap_us: int) -> list[tuple[int, int]]:
    """Up to k frame pairs about ``gap_us`` apart, spread over the video.

    Motion per second does not depend on the frame rate only if the pairs are apart in *time*;
    frame indices of a 8 fps sample and of a 60 fps clip are not comparable.

    Args:
        times_us: ascending presentation times of all frames, microseconds.
        k: wanted number of pairs.
        gap_us: wanted distance.

    Returns:
        Pairs (i, j), i < j, where j is the frame nearest to ``gap_us`` after i (the next frame
        at least). Empty for a single frame.
    """
    times = np.asarray(times_us, dtype=np.int64)
    if times.size < 2:
        return []
    # First frames are drawn among those that still have a partner a full gap later.
    starts = max(1, int((times + gap_us <= times[-1]).sum()))
    pairs = []
    for i in linspace_inclusive(starts, k):
        j = int(np.abs(times - (times[i] + gap_us)).argmin())
        pairs.append((i, max(i + 1, j)))
    return pairs
