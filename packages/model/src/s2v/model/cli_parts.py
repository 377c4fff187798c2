"""What several verbs of ``s2v-model`` do alike."""

from __future__ import annotations

import argparse

from s2v.model.config import Config
from s2v.model.progress import Track, quiet, shown


def stored(a: argparse.Namespace) -> Config:
    """The run's configuration with this call's overrides."""
    from s2v.model.run import Run

    return Run(a.run).config(a.overrides)


def track(a: argparse.Namespace) -> Track:
    """Progress as this call wants it."""
    return quiet if a.quiet else shown
