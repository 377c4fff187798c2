"""Gates: loose thresholds before the expensive stages.

A gate only saves work. What it stops is dropped by a tighter threshold anyway, its row
stays, and it reads ``not measured: gate <name>``. Loosening a gate measures just the newly
admitted clips.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.engine.stage import Row


class GateSettings(BaseModel):
    """Bounds a clip must meet before a model looks at it; ``None`` opens the gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_black: float | None = Field(default=0.5, description="share of near-black frames")
    max_freeze: float | None = Field(default=0.98, description="share of repeated frames")
    max_text_share: float | None = Field(default=0.25, description="share of the frame under text")
    min_luma_std: float | None = Field(
        default=0.02, description="contrast; flat colour cards have none"
    )

    def stops(self, row: Row) -> str | None:
        """``not measured: gate X`` for the first gate that stops the clip, else ``None``.

        ``row`` joins tables ``clips`` and ``quality``. A score that was not measured stops
        nothing.
        """
        checks = (
            ("black", row.get("black"), self.max_black, 1),
            ("freeze", row.get("freeze"), self.max_freeze, 1),
            ("text_share", row.get("text_share"), self.max_text_share, 1),
            ("luma_std", row.get("luma_std"), self.min_luma_std, -1),
        )
        for name, value, bound, sign in checks:
            if value is not None and bound is not None and sign * (value - bound) > 0:
                return f"not measured: gate {name}"
        return None
