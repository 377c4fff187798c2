"""What can be wrong with a calibration, said so that a user can mend it."""

from __future__ import annotations


class CalibrateError(ValueError):
    """Labels, run or configuration that cannot be used; the message names file and way out."""
