"""Who rates what, in which order, on which side: pure, seeded, and balanced.

Every rater sees all methods of the groups dealt to them, so that methods are compared within
raters. A session is made of blocks; each block shows each of the rater's groups once, and a
Williams square decides which method it shows, so that over raters every method stands equally
often at every place and after every other method. Videos of one prompt are thus far apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from s2v.evals.errors import EvalError

Mode = Literal["scale", "pairwise"]
Kind = Literal["item", "gold", "repeat"]


@dataclass(frozen=True)
class Slot:
    """One item of one rater's session.

    Attributes:
        group: reference and prompt.
        models: the one that is shown, or the ones left and right.
        kind: ``gold`` has a known answer, ``repeat`` is shown a second time.
        of: for a repeat, the place of the first showing in the session.
        damaged: for gold, which of ``models`` is shown as a damaged copy.
    """

    group: str
    models: tuple[str, ...]
    kind: Kind = "item"
    of: int | None = None
    damaged: int | None = None


def williams(n: int) -> list[list[int]]:
    """A Williams square: rows of ``range(n)`` balanced for place and for what precedes.

    Args:
        n: methods, at least 1.

    Returns:
        ``n`` rows for even n, ``2 n`` for odd.
    """
    # 0, 1, n-1, 2, n-2, ...: neighbours differ by every amount once.
    first = [0]
    low, high = 1, n - 1
    while low <= high:
        first.append(low)
        if low != high:
            first.append(high)
        low, high = low + 1, high - 1
    rows = [[(value + shift) % n for value in first] for shift in range(n)]
    return rows if n % 2 == 0 else rows + [row[::-1] for row in rows]


def plan(
    groups: Sequence[str],
    models: Sequence[str],
    *,
    mode: Mode,
    raters: int,
    per_rater: int,
    gold: int = 2,
    repeats: int = 2,
    seed: int = 0,
) -> list[list[Slot]]:
    """Sessions of all raters.

    Args:
        groups: what every model answered.
        models: at least one for a scale, two for pairs.
        mode: one video at a time, or two side by side.
        raters: number of sessions.
        per_rater: groups in a session; each is shown with all models (or pairs of them).
        gold: items with a known answer in each session.
        repeats: items shown a second time in each session, pairs with sides swapped.
        seed: of every choice.

    Returns:
        One list of slots per rater, in the order they are shown. Each group goes to equally many
        raters, within one.

    Raises:
        EvalError: a number that cannot be had.
    """
    if raters < 1 or per_rater < 1 or gold < 0 or repeats < 0:
        raise EvalError(f"study: {raters=}, {per_rater=}, {gold=}, {repeats=} cannot be had")
    if not groups:
        raise EvalError("study: no reference and prompt that every model answered")
    if len(models) < (2 if mode == "pairwise" else 1):
        raise EvalError(f"study: {mode} needs more models than {list(models)}")
    per_rater = min(per_rater, len(groups))
    rng = np.random.default_rng(seed)
    dealt = [groups[i] for i in rng.permutation(len(groups))]
    shown: list[tuple[str, ...]] = [(m,) for m in models]
    if mode == "pairwise":
        shown = list(combinations(models, 2))
    square = williams(len(shown))
    sides = _Sides()
    sessions = []
    for rater in range(raters):
        mine = [dealt[(rater * per_rater + j) % len(dealt)] for j in range(per_rater)]
        slots: list[Slot] = []
        for block in range(len(shown)):
            for j in rng.permutation(per_rater):
                what = shown[square[(int(j) + rater) % len(square)][block]]
                slots.append(Slot(mine[j], sides.turned(rater, mine[j], what)))
        slots = _with_repeats(slots, repeats, rng)
        sessions.append(_with_gold(slots, gold, mode, rng))
    return sessions


class _Sides:
    """Which of a pair stands left: whatever has stood there less often, group by group first."""

    def __init__(self) -> None:
        self._left: Counter[tuple[object, ...]] = Counter()

    def turned(self, rater: int, group: str, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(models) == 1:
            return models
        a, b = models
        lean = [
            self._left[scope, a] - self._left[scope, b]
            for scope in ((group, a, b), (rater, a, b), (a, b), (rater,), ())
        ]
        chosen = models if next((d for d in lean if d), 0) <= 0 else (b, a)
        for scope in ((group, a, b), (rater, a, b), (a, b), (rater,), ()):
            self._left[scope, chosen[0]] += 1
        return chosen


def _with_repeats(slots: list[Slot], repeats: int, rng: np.random.Generator) -> list[Slot]:
    """Items of the first half again, in the last third: whoever answers by chance shows it."""
    repeats = min(repeats, len(slots) // 2)
    chosen = sorted(int(i) for i in rng.permutation(max(1, len(slots) // 2))[:repeats])
    made = list(slots)
    for i in chosen:
        at = int(rng.integers(max(i + 1, 2 * len(slots) // 3), len(made) + 1))
        made.insert(at, replace(slots[i], models=slots[i].models[::-1], kind="repeat", of=i))
    return made


def _with_gold(slots: list[Slot], gold: int, mode: Mode, rng: np.random.Generator) -> list[Slot]:
    """Items with a known answer at random places, never first: the first is for learning."""
    made = list(enumerate(slots))
    new: list[tuple[int | None, Slot]] = list(made)
    plain = [s for s in slots if s.kind == "item"]
    for _ in range(gold):
        model = plain[int(rng.integers(len(plain)))]
        name = model.models[0]
        if mode == "scale":
            slot = Slot(model.group, (name,), "gold", damaged=0)
        else:
            slot = Slot(model.group, (name, name), "gold", damaged=int(rng.integers(2)))
        new.insert(int(rng.integers(1, len(new) + 1)), (None, slot))
    where = {old: place for place, (old, _) in enumerate(new) if old is not None}
    return [
        replace(s, of=where[s.of]) if s.kind == "repeat" and s.of is not None else s for _, s in new
    ]
