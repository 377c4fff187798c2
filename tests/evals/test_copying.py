"""Copying: a pasted reference scores as one, the same subject seen otherwise does not."""

from __future__ import annotations

import numpy as np
import pytest

from s2v.datapipe.base.assets import is_present
