"""Reasons that one room writes and another reads."""

from __future__ import annotations

from typing import Final

#: Of a detection: its phrase was grounded to several regions of the frame (Phantom-Data drops it).
SEVERAL_BOXES: Final = "phrase fits several boxes"
