"""A stranger's JSON: read entry by entry within a bound, every value asked for by its type.

OpenS2V-5M publishes JSON objects of 32 to 66 GB, so a file is never held whole.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Final

from s2v.datapipe.interop.errors import InteropError, RowError

MAX_ENTRY: Final = 64 << 20
"""Characters of one entry. The published ones are 0.1 to 1 MB."""

MAX_FILE: Final = 256 << 20
"""Bytes of a file that is read whole."""

_CHUNK: Final = 1 << 20
_SPACE: Final = " \t\r\n"
_IN_NUMBERS: Final = "+-.0123456789Ee"  # also holds "", the end of what was read


def entries(path: Path, max_entry: int = MAX_ENTRY) -> Iterator[tuple[str, Any]]:
    """Keys and values of the one object that a JSON file of any size holds.

    Args:
        path: the file.
        max_entry: characters of one value; the memory that is needed.

    Yields:
        Each key, and its parsed value. NaN and Infinity, which are no JSON, come as ``None``.

    Raises:
        InteropError: missing, not UTF-8, not JSON, no object, an entry over the bound, a key
            that is there twice.
    """
    with opened(path) as handle:
        text = _Text(path, handle, max_entry)
        text.expect("{", "holds one JSON object at its top")
        if text.peek() == "}":
            text.expect("}", "")
            return text.expect_end()
        seen: set[bytes] = set()
        while True:
            key = text.value("a key")
            if not isinstance(key, str):
                raise InteropError(f"{path}: {str(key)[:80]!r} is no key; is it JSON?")
            digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=12).digest()
            if digest in seen:
                raise InteropError(f"{path}: entry {key[:200]!r} is there twice; remove one")
            seen.add(digest)
            text.expect(":", f"has a value behind {key[:200]!r}")
            yield writable(key), text.value(f"entry {key[:200]!r}")
            if text.peek() == "}":
                text.expect("}", "")
                return text.expect_end()
            text.expect(",", f"goes on behind entry {key[:200]!r}")


def writable(text: str) -> str:
    """A text of JSON without half characters (surrogates), which no file and no hash can hold."""
    return text.encode(errors="backslashreplace").decode()


def load(path: Path, max_bytes: int = MAX_FILE) -> Any:
    """A whole JSON file.

    Raises:
        InteropError: missing, over ``max_bytes``, not UTF-8 JSON.
    """
    with opened(path) as handle:
        data = handle.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InteropError(f"{path}: over {max_bytes} bytes; split it")
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InteropError(f"{path}: not JSON: {str(error)[:200]}; fetch it again") from None


def opened(path: Path) -> BinaryIO:
    """A file of a foreign dataset, opened for reading.

    Raises:
        InteropError: it is missing, a folder, or may not be read.
    """
    try:
        if not path.is_file():
            raise InteropError(f"{path}: no such file; name the file of the dataset")
        return path.open("rb")
    except OSError as error:
        raise InteropError(f"{path}: cannot be read: {error.strerror}") from None


def _no_number(_: str) -> None:
    """Python writes NaN and Infinity, which are no JSON: a value that is not there."""


class _Text:
    """A window onto a file of text, widened while a value does not end in it."""

    def __init__(self, path: Path, handle: BinaryIO, max_entry: int) -> None:
        self._path, self._handle, self._max = path, handle, max_entry
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder(parse_constant=_no_number)
        self._text, self._at, self._eof = "", 0, False

    def peek(self) -> str:
        """The next character that is no white space, ``""`` at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or self._eof:
                return self._text[self._at : self._at + 1]
            self._more(_CHUNK)

    def expect(self, character: str, what: str) -> None:
        if (found := self.peek()) != character:
            there = repr(found) if found else "the end of the file"
            raise InteropError(
                f"{self._path}: {there} where a file that {what} has {character!r}; "
                "not JSON, or cut short: fetch it again"
            )
        self._at += 1

    def expect_end(self) -> None:
        if found := self.peek():
            raise InteropError(f"{self._path}: {found!r} behind the end of the object")

    def value(self, what: str) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                held = len(self._text) - self._at
                if self._eof:
                    raise InteropError(
                        f"{self._path}, {what}: not JSON: {error.msg}; cut short or damaged: "
                        "fetch it again"
                    ) from None
                if held > self._max:
                    raise InteropError(
                        f"{self._path}, {what}: does not end within {self._max} characters, or "
                        f"is not JSON ({error.msg}); the largest published entries have 1 MB"
                    ) from None
                self._more(max(_CHUNK, held))
                continue
            except (ValueError, RecursionError) as error:
                raise InteropError(f"{self._path}, {what}: {str(error)[:200]}") from None
            # A number may go on in what was not read yet: "3" and ".25"; nothing else can.
            if not self._eof and self._text[end : end + 1] in _IN_NUMBERS:
                self._more(_CHUNK)
                continue
            self._at = end
            return value

    def _more(self, size: int) -> None:
        data = self._handle.read(size)
        self._eof = not data
        try:
            new = self._utf8.decode(data, final=self._eof)
        except UnicodeDecodeError as error:
            raise InteropError(f"{self._path}: not UTF-8 ({error.reason})") from None
        self._text = self._text[self._at :] + new
        self._at = 0


class Fields:
    """An object of a stranger's JSON; what is asked of it comes with its type or not at all."""

    def __init__(self, value: Any, what: str, reason: str = "unreadable row") -> None:
        """Take a JSON object.

        Args:
            value: what should be one.
            what: its name in messages.
            reason: of the :class:`RowError` when something is not as it should be.
        """
        self._what, self._reason = what, reason
        if not isinstance(value, dict):
            raise RowError(reason, f"{what} is {_kind(value)}, not an object")
        self._value = value

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        """Its keys, in their order."""
        return iter(self._value)

    def __len__(self) -> int:
        return len(self._value)

    def raw(self, key: str) -> Any:
        """A value of any type that must be there."""
        if self._value.get(key) is None:
            raise RowError(self._reason, f"{self._what} has no {key!r}; it has {list(self)[:12]}")
        return self._value[key]

    def text(self, key: str, limit: int = 20_000) -> str:
        """A string of 1 to ``limit`` characters."""
        value = self.raw(key)
        if not isinstance(value, str) or not value.strip() or len(value) > limit:
            raise self._wrong(key, value, f"a text of at most {limit} characters")
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON may name half a character, which no file can hold
            raise self._wrong(key, value, "a text that can be written down") from None
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        try:
            found = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            found = math.inf
        if not math.isfinite(found):
            raise self._wrong(key, value, "a finite number")
        return found

    def integer(self, key: str) -> int:
        """A whole number of at most 15 digits."""
        value = self.number(key)
        if value != int(value) or abs(value) >= 1e15:
            raise self._wrong(key, value, "a whole number")
        return int(value)

    def numbers(self, key: str, count: int) -> list[float]:
        """A list of ``count`` finite numbers."""
        value = self.raw(key)
        if not isinstance(value, list | tuple) or len(value) != count:
            raise self._wrong(key, value, f"a list of {count} numbers")
        return [Fields({"0": v}, f"{self._what}.{key}", self._reason).number("0") for v in value]

    def integers(self, key: str, count: int) -> list[int]:
        """A list of ``count`` whole numbers."""
        values = self.numbers(key, count)
        if any(v != int(v) or abs(v) >= 1e15 for v in values):
            raise self._wrong(key, values, f"a list of {count} whole numbers")
        return [int(v) for v in values]

    def items(self, key: str, limit: int = 10_000) -> list[Any]:
        """A list of at most ``limit`` values."""
        value = self.raw(key)
        if not isinstance(value, list) or len(value) > limit:
            raise self._wrong(key, value, f"a list of at most {limit}")
        return value

    def object(self, key: str) -> Fields:
        """An object inside."""
        return Fields(self.raw(key), f"{self._what}.{key}", self._reason)

    def _wrong(self, key: str, value: Any, wanted: str) -> RowError:
        shown = ascii(value)[:120]
        return RowError(self._reason, f"{self._what}.{key} is {shown}, not {wanted}")


def _kind(value: Any) -> str:
    return "missing" if value is None else f"{type(value).__name__} {repr(value)[:80]}"
