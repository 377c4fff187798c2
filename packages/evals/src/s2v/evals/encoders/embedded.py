"""The embedded encoders: small open networks that run for real on a CPU.

Each is made at first use, so a run whose scores are all cached loads none.
"""

from __future__ import annotations


class LightEncoders:
    pass
