"""Types of command-line numbers: what cannot be is wrong usage, said by argparse in one line."""

from __future__ import annotations

import argparse


def natural(text: str) -> int:
    """A whole number of 0 or more, such as a seed."""
    return _whole(text, 0)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
    return value
