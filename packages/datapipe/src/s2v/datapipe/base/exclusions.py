"""Exclusion and takedown lists: JSONL of ``{key_type, key, reason, by, when}``.

Honoured by selection, and so by every write after it; ids are stable, so a list outlives
re-selection.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

KeyType = Literal[
    "video_id", "long_video_id", "sha256", "clip_id", "subject_id", "identity_id", "sample_id"
]


class ExclusionError(ValueError):
    """A line of an exclusion list that cannot be honoured; nothing is selected then."""


class Exclusion(BaseModel):
    """One line of the list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_type: KeyType
    key: str
    reason: str
    by: str
    when: str


def read_exclusions(path: Path) -> tuple[Exclusion, ...]:
    """Read a list; blank lines are skipped.

    Raises:
        ExclusionError: naming file and line. A takedown that cannot be read must stop the
            write, not be skipped.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ExclusionError(f"{path}: no such exclusion list; name one or take it out") from None
    except UnicodeDecodeError as error:
        raise ExclusionError(f"{path}: not UTF-8 ({error}); save the list as UTF-8") from None
    found = []
    # Not splitlines(): a JSON string may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(Exclusion.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "line"
            raise ExclusionError(
                f"{path}:{number}: {where}: {first['msg']}; a line is "
                '{"key_type", "key", "reason", "by", "when"} with key_type one of '
                f"{', '.join(get_args(KeyType))}"
            ) from None
    return tuple(found)


class ExclusionIndex:
    """Looks rows up in a list."""

    def __init__(self, exclusions: Iterable[Exclusion]) -> None:
        self._reasons: dict[tuple[str, str], str] = {}
        for one in sorted(exclusions, key=lambda e: (e.key_type, e.key, e.reason, e.by, e.when)):
            # Also without a reason a line counts: callers ask whether there is one.
            self._reasons.setdefault(
                (one.key_type, one.key), one.reason.strip() or "no reason given"
            )

    def reason(self, row: dict[str, Any], *key_types: KeyType) -> str | None:
        """Why ``row`` is excluded by one of its ids, or ``None``."""
        for key_type in key_types:
            key = row.get(key_type)
            if key is not None and (key_type, key) in self._reasons:
                return self._reasons[key_type, key]
        return None

    def of(self, key_type: KeyType) -> dict[str, str]:
        """Every key of one type with its reason."""
        return {key: why for (kind, key), why in self._reasons.items() if kind == key_type}
