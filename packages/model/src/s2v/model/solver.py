"""Noise levels to step through, and the steps: Euler and UniPC along the flow.

Schedulers elsewhere build their own grids and differ in the last steps (``docs/sampling.md``), so
the grid is ours, and each solver is handed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

import torch
from torch import Tensor

_Number = TypeVar("_Number", float, Tensor)

#: The order that the release uses.
ORDER: Final = 2


def shifted(t: _Number, shift: float) -> _Number:
    """``s t / (1 + (s - 1) t)``: more of the levels near noise for ``s > 1``."""
    return shift * t / (1 + (shift - 1) * t)


def sigmas(steps: int, shift: float, first: float = 1.0) -> list[float]:
    """``steps + 1`` noise levels down to 0: evenly spaced from ``first``, then shifted.

    ``first = 0.999`` is Wan's grid (999.8, 995.7, ... 172.3, 92.5 of a thousand for 50 steps and
    shift 5), ``first = 1`` the plain one (1000, 995.9, ... 172.4, 92.6).

    Raises:
        ValueError: no steps, a shift that is not positive, or ``first`` outside (0, 1].
    """
    if steps < 1 or shift <= 0 or not 0 < first <= 1:
        raise ValueError(f"steps {steps} >= 1, shift {shift} > 0 and first {first} in (0, 1]")
    return [shifted(first * (1 - i / steps), shift) for i in range(steps + 1)]


class Solver(Protocol):
    """Walks a grid of levels."""

    def step(self, velocity: Tensor, x: Tensor) -> Tensor:
        """From the current level to the next; called once per level but the last.

        Args:
            velocity: at the current level.
            x: as the last step returned it.
        """


class Euler:
    """``x + (t' - t) v``."""

    def __init__(self, levels: Sequence[float]) -> None:
        self._levels, self._at = list(levels), 0

    def step(self, velocity: Tensor, x: Tensor) -> Tensor:
        """See :class:`Solver`."""
        t, after = self._levels[self._at : self._at + 2]
        self._at += 1
        return x + (after - t) * velocity


class UniPC:
    """Unified predictor-corrector (Zhao et al. 2023, B(h) = e^h - 1) on the flow.

    The network's answer at a new level first corrects the step that led there, then predicts the
    next one; both look at the clean estimate ``x - t v`` of the last ``order`` levels. With
    alpha = 1 - t, sigma = t and lambda = log(alpha / sigma) one step is exact in its linear part.

    Args:
        levels: from noise to 0; a first level of 1 is taken as ``1 - 1e-6``, where lambda ends.
        order: of the predictor; steps at either end use what they have.
    """

    def __init__(self, levels: Sequence[float], order: int = ORDER) -> None:
        t = torch.tensor(list(levels), dtype=torch.float64).clamp(max=1 - 1e-6)
        self._t, self._lambda = t, torch.log1p(-t) - torch.log(t)
        self._order = order
        self._clean: list[Tensor] = []  # estimates at the levels so far, the newest last
        self._corrected: Tensor | None = None  # x at the last level
        self._at = 0
        self._last_order = 0

    def step(self, velocity: Tensor, x: Tensor) -> Tensor:
        """See :class:`Solver`."""
        # The estimate is taken at the predicted point, and the corrector keeps it.
        clean = x - float(self._t[self._at]) * velocity
        if self._corrected is not None:
            x = self._move(self._at - 1, self._corrected, self._last_order, clean)
        self._clean = [*self._clean, clean][-self._order :]
        self._corrected = x
        left = len(self._t) - 1 - self._at
        self._last_order = min(self._order, len(self._clean), left)
        after = self._move(self._at, x, self._last_order, None)
        self._at += 1
        return after

    def _move(self, i: int, x: Tensor, order: int, new: Tensor | None) -> Tensor:
        """From level ``i`` to the next; ``new`` is the estimate there, if the network was asked."""
        known, here = self._clean, self._clean[-1]
        h = self._lambda[i + 1] - self._lambda[i]
        ratios = [(self._lambda[i - k] - self._lambda[i]) / h for k in range(1, order)]
        slopes = [(known[-1 - k] - here) / float(r) for k, r in enumerate(ratios, start=1)]
        grown = torch.expm1(-h)
        alpha = 1 - float(self._t[i + 1])
        base = float(self._t[i + 1] / self._t[i]) * x - alpha * float(grown) * here
        if new is not None:
            slopes.append(new - here)
            ratios.append(torch.ones((), dtype=torch.float64))
        if not slopes:
            return base
        mixed = sum(
            (float(w) * d for w, d in zip(self._weights(h, ratios), slopes, strict=True)),
            start=torch.zeros_like(x),
        )
        return base - alpha * float(grown) * mixed

    @staticmethod
    def _weights(h: Tensor, ratios: list[Tensor]) -> Tensor:
        """Weights that make the step exact for polynomials of the estimate in lambda."""
        if len(ratios) == 1:
            return torch.full((1,), 0.5, dtype=torch.float64)  # the authors' simplification
        grown = torch.expm1(-h)
        phi, factorial, wanted = grown / -h - 1, 1.0, []
        for i in range(1, len(ratios) + 1):
            wanted.append(phi * factorial / grown)
            factorial *= i + 1
            phi = phi / -h - 1 / factorial
        powers = torch.stack(ratios)[None] ** torch.arange(len(ratios))[:, None]
        weights: Tensor = torch.linalg.solve(powers, torch.stack(wanted))
        return weights


def solver(name: str, levels: Sequence[float]) -> Solver:
    """``euler`` or ``unipc`` over a grid of :func:`sigmas`.

    Raises:
        ValueError: another name.
    """
    if name == "euler":
        return Euler(levels)
    if name == "unipc":
        return UniPC(levels)
    raise ValueError(f"solver {name!r}: known are euler, unipc")
