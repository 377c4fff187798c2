"""What a measuring stage is: a small class with one method over the rows of a unit.

A stage reads rows of earlier tables, restricted to the ids of its unit, and returns rows
of its own tables. It knows its models by role, never by name, and nothing of Ray.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.engine.errors import ModelFaultError, StoreError
from s2v.datapipe.engine.pools import Need
from s2v.datapipe.roles import RoleUnavailableError, WeightsError

Row = dict[str, Any]

#: Which column says what a row belongs to, for the two granularities of units.
KEYS = ("clip_id", "video_id")


@dataclass
class Unit:
    """The rows a stage may see, and what it says of them.

    Attributes:
        name: stable name of the unit; commits are filed under it.
        key: ``video_id`` before shots, ``clip_id`` after.
        ids: the ids to be measured now, sorted.
        tables: rows of earlier tables that belong to these ids.
        run: the run folder, for stages that write media (sampled frames).
    """

    name: str
    key: str
    ids: list[str]
    tables: dict[str, list[Row]]
    run: Path
    quarantine: list[Row] = field(default_factory=list)

    def rows(self, table: str) -> list[Row]:
        """Rows of ``table`` for the unit's ids that are not in quarantine, in stored order."""
        bad = {row["id"] for row in self.quarantine}
        wanted = set(self.ids) - bad
        return [row for row in self.tables.get(table, []) if row[self.key] in wanted]

    def by_id(self, table: str) -> dict[str, list[Row]]:
        """Rows of ``table`` grouped by the unit's key."""
        groups: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows(table):
            groups[row[self.key]].append(row)
        return groups

    @contextmanager
    def guard(self, row_id: str, stage: str) -> Iterator[None]:
        """Turn what this one row's content causes into a quarantine row.

        Lack of memory or disk, lost connections, missing libraries and damaged files of the
        run folder pass through: they say nothing of the row and leave the unit open. What else
        a model or a decoder raises is the row's; should it be ours, the quarantine budget
        stops the run.
        """
        try:
            yield
        except MediaError as error:
            if error.transient:
                raise
            self.refuse(row_id, stage, error.kind, str(error))
        except (OSError, MemoryError, ImportError, AssertionError, StoreError, WeightsError):
            raise
        except Exception as error:  # noqa: BLE001  a row's content can make a model raise anything
            self.refuse(row_id, stage, type(error).__name__, str(error))

    def refuse(self, row_id: str, stage: str, error: str, message: str) -> None:
        """Put a row into quarantine."""
        self.quarantine.append(
            {
                "id": row_id,
                "stage": stage,
                "unit": self.name,
                "error": error,
                "message": message[:2000],
                "retry": "mend or replace the file, then run again with --retry-quarantine",
            }
        )


class Stage(ABC):
    """One measurement.

    Class attributes say what it is called, which tables it reads and writes, and its
    version: raise it when the same input would give other rows.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Everything the rows depend on besides the input: settings and model ids.

        Must not load a model: it is asked before every run.
        """

    @abstractmethod
    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Measure ``unit.ids``; return rows by table."""

    def setup(self) -> None:  # noqa: B027  a hook: most classical stages have nothing to load
        """Load models; called once per actor before the first unit."""

    def gate(self, row: Row) -> str | None:
        """Say why a clip is not worth measuring here, or ``None`` to admit it.

        ``row`` is the clip joined with its quality row. A gate is a loose threshold; it is
        not part of the fingerprint, so that loosening it measures just the newly admitted.
        """
        return None

    def fingerprint(self, upstream: Mapping[str, str]) -> str:
        """Hash of name, version, identity and the fingerprints of the stages read."""
        mine = json.dumps(self.identity(), sort_keys=True, default=str)
        before = json.dumps(dict(upstream), sort_keys=True)
        return stable_hash([self.name, str(self.version), mine, before], 12)


@dataclass(frozen=True)
class StageRun:
    """A stage with where its commits go, and what one actor of it is booked with.

    Attributes:
        roles: of the models that the stage holds, for messages.
    """

    stage: Stage
    fingerprint: str
    need: Need = field(default_factory=Need)
    roles: tuple[str, ...] = ()

    @property
    def named(self) -> str:
        """The roles as a user wrote them, or the stage where it has none."""
        shown = [f"roles.{role}" for role in self.roles]
        return " or ".join(shown) or f"stage {self.stage.name}"

    @contextmanager
    def naming_its_models(self) -> Iterator[None]:
        """Say which role it is whose weights or server are at fault.

        Raises:
            ModelFaultError: in place of WeightsError and RoleUnavailableError.
        """
        try:
            yield
        except (WeightsError, RoleUnavailableError) as error:
            said = str(error)
            named = any(f"roles.{role}" in said for role in self.roles)
            raise ModelFaultError(said if named else f"{self.named}: {said}") from error
