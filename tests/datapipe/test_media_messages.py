"""A decoder that was taken over must not be able to run code in the process that asked it."""

from __future__ import annotations

import os
import pickle
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.messages import receive, send


def through_a_pipe(value: Any) -> Any:
    read, write = os.pipe()
    try:
        send(write, value)
        return receive(read)
    finally:
        os.close(read)
        os.close(write)


class Hostile:
    def __init__(self, call: Any, *arguments: str) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("call", [os.system, eval, exec, __import__, getattr, open])
def test_a_message_that_would_call_something_is_refused(call: Any) -> None:
    read, write = os.pipe()
    body = pickle.dumps(Hostile(call, "true"))
    os.write(write, struct.pack("<IQ", 1, len(body)) + body)
    with pytest.raises(EOFError, match="names"):
        receive(read)


def test_arrays_errors_and_plain_values_come_through_unchanged() -> None:
    frame = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    got = through_a_pipe([(5, frame), {"fps": Fraction(24000, 1001)}, np.float32(0.5), b"x"])
    assert got[0][0] == 5
    assert np.array_equal(got[0][1], frame)
    assert got[1:] == [{"fps": Fraction(24000, 1001)}, np.float32(0.5), b"x"]
    error = through_a_pipe(MediaError(MediaErrorKind.CORRUPT, "a.mp4", "why"))
    assert (error.kind, error.path, error.message) == (MediaErrorKind.CORRUPT, "a.mp4", "why")
    assert isinstance(through_a_pipe(ValueError("x")), ValueError)
