"""Put bounds into a user's TOML file: two values and the comments above them, nothing else.

The file is edited as lines, so that order and comments stay, and read again afterwards: when it
does not say exactly what it said before plus the bounds, it is left as it was. Ends of lines (also
``CR LF``), the file's mode and a link that points to it stay too.
"""

from __future__ import annotations

import copy
import re
import stat
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base import atomic
from s2v.datapipe.calibrate.errors import CalibrateError

#: Marks the comments that this module wrote, and may write anew.
MARK: Final = "# calibrated: "
_WIDTH: Final = 100
_HEADER: Final = re.compile(r"^\s*\[(?!\[)\s*([^\]]+?)\s*\]\s*(#.*)?$")


def write_bounds(
    path: Path,
    section: Sequence[str],
    values: Mapping[str, float],
    evidence: Sequence[str],
    *,
    replace: bool = False,
) -> dict[str, tuple[float | None, float]]:
    """Set ``values`` in ``[section]`` of a file, with ``evidence`` as comments above them.

    Args:
        path: TOML; it must exist.
        section: such as ``("select", "pair", "creature")``.
        values: key -> number.
        evidence: one line each.
        replace: allow values that stand there to change.

    Returns:
        key -> what stood there, and what stands there now.

    Raises:
        CalibrateError: not readable; another value stands there and ``replace`` is off; or the
            file is written in a way that cannot be edited safely. It is then unchanged.
    """
    try:
        raw = path.read_bytes().decode("utf-8")
        before = raw.replace("\r\n", "\n")
        data = tomllib.loads(before)
    except FileNotFoundError:
        raise CalibrateError(f"{path}: no such file; name the configuration to write to") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CalibrateError(f"{path}: not a readable TOML file: {error}") from None
    there = _at(data, section)
    other = {k: there[k] for k, v in values.items() if k in there and there[k] != v}
    if other and not replace:
        stands = ", ".join(f"{k} = {v}" for k, v in sorted(other.items()))
        raise CalibrateError(
            f"{path}: [{'.'.join(section)}] has {stands} already; give --replace to put "
            f"{', '.join(f'{k} = {v}' for k, v in values.items())} there"
        )
    text = _edited(before, section, values, evidence)
    _check(path, data, text, section, values, evidence)
    if "\r\n" in raw:
        text = text.replace("\n", "\r\n")
    with atomic.replacing(path.resolve()) as temporary:
        temporary.write_bytes(text.encode())
        temporary.chmod(stat.S_IMODE(path.stat().st_mode))
    return {key: (there.get(key), value) for key, value in values.items()}


def _at(data: Mapping[str, Any], section: Sequence[str]) -> Mapping[str, Any]:
    for name in section:
        found = data.get(name, {})
        data = found if isinstance(found, dict) else {}
    return data


def _edited(
    text: str, section: Sequence[str], values: Mapping[str, float], evidence: Sequence[str]
) -> str:
    lines = text.split("\n")  # not splitlines: TOML ends a line nowhere else
    if lines[-1] == "":
        lines.pop()
    comments = [
        MARK + part for line in evidence for part in textwrap.wrap(line, _WIDTH - len(MARK))
    ]
    start = next((n for n, line in enumerate(lines) if _names(line) == list(section)), None)
    if start is None:
        gap = [""] if lines and lines[-1].strip() else []
        new = [f"[{'.'.join(section)}]", *comments, *(f"{k} = {v}" for k, v in values.items())]
        return "\n".join([*lines, *gap, *new]) + "\n"
    end = next(
        (n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines)
    )
    body = [line for line in lines[start + 1 : end] if not line.startswith(MARK)]
    for key, value in reversed(list(values.items())):
        at = next((n for n, line in enumerate(body) if _sets(line, key)), None)
        if at is None:
            body.insert(0, f"{key} = {value}")
        else:
            indent, note = _indent(body[at]), _comment(body[at])
            body[at] = f"{indent}{key} = {value}{note}"
    first = min(n for n, line in enumerate(body) if any(_sets(line, key) for key in values))
    body[first:first] = comments
    return "\n".join([*lines[: start + 1], *body, *lines[end:]]) + "\n"


def _names(line: str) -> list[str] | None:
    found = _HEADER.match(line)
    return [part.strip().strip("\"'") for part in found[1].split(".")] if found else None


def _sets(line: str, key: str) -> bool:
    return re.match(rf"^\s*[\"']?{re.escape(key)}[\"']?\s*=", line) is not None


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _comment(line: str) -> str:
    """What a number's line says behind it."""
    found = re.search(r"\s*#.*$", line)
    return found[0] if found else ""


def _check(
    path: Path,
    data: Mapping[str, Any],
    text: str,
    section: Sequence[str],
    values: Mapping[str, float],
    evidence: Sequence[str],
) -> None:
    """Refuse an edit that says anything else than the file did, plus the bounds."""
    wanted = copy.deepcopy(dict(data))
    inner = wanted
    for name in section:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            break
    else:
        inner.update(values)
        try:
            if tomllib.loads(text) == wanted:
                return
        except tomllib.TOMLDecodeError:
            pass
    said = "; ".join([f"[{'.'.join(section)}]", *(f"{k} = {v}" for k, v in values.items())])
    raise CalibrateError(
        f"{path}: the section is written in a way that cannot be edited safely (an inline table, "
        f"or dotted keys); put this there by hand: {said} ({evidence[0] if evidence else ''})"
    )
