"""What of a unit is still to be measured, asked of the commits before rows are read.

The driver asks it to see which units are open, the actor to see what is missing; both get the
same answer, because there is one function.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2v.datapipe.engine.stage import Row, Stage, StageRun, Unit
from s2v.datapipe.engine.store import Commit, StageStore


class UnitRows:
    """A unit on its way through the stages: its ids, and the rows it has so far."""

    def __init__(self, run: Path, item: dict[str, Any], *, retry_quarantine: bool = False) -> None:
        self.run = run
        self.name, self.key = str(item["unit"]), str(item["key"])
        self.ids = list(item["ids"])
        self.tables: dict[str, list[Row]] = {n: list(rows) for n, rows in item["tables"].items()}
        self.retry_quarantine = retry_quarantine
        self._passed: list[StageStore] = []  # whose rows have not been read yet

    def store(self, run: StageRun) -> StageStore:
        """Where the stage's commits of this unit lie."""
        return StageStore(self.run, run.stage.name, run.fingerprint)

    def missing(self, run: StageRun) -> list[str]:
        """Admitted ids that the stage is to measure, in order.

        Rows are read only if some id is not covered, which a gate may have stopped.
        """
        return self._uncovered(run, reopen=self.retry_quarantine)

    def lost(self, run: StageRun) -> list[str]:
        """Admitted ids that no commit covers after the stage ran: there should be none."""
        return self._uncovered(run, reopen=False)

    def _uncovered(self, run: StageRun, *, reopen: bool) -> list[str]:
        covered = self.store(run).covered(self.name, reopen_quarantine=reopen)
        open_ids = [one for one in self.ids if one not in covered]
        return self._admitted(run.stage, open_ids) if open_ids else []

    def committed(self, run: StageRun) -> bool:
        """Whether the stage has any commit of the unit; one without ids counts."""
        return bool(self.store(run).commits(self.name))

    def passed(self, run: StageRun) -> None:
        """Go on behind a stage: what it quarantined, no later stage sees."""
        store = self.store(run)
        bad = quarantined(store.commits(self.name))
        self.ids = [one for one in self.ids if one not in bad]
        self._passed.append(store)

    def unit(self, ids: Sequence[str], tables: Sequence[str]) -> Unit:
        """The unit as a stage sees it, with the rows of ``tables`` read."""
        self._read(tables)
        return Unit(self.name, self.key, list(ids), self.tables, self.run)

    def _admitted(self, stage: Stage, ids: list[str]) -> list[str]:
        if self.key != "clip_id" or type(stage).gate is Stage.gate:
            return ids
        self._read(("clips", "quality", "overlays"))
        joined: dict[str, Row] = {}
        for table in ("overlays", "quality", "clips"):  # of equal columns the clip's own counts
            for row in self.tables.get(table, []):
                joined[row["clip_id"]] = {**joined.get(row["clip_id"], {}), **row}
        return [one for one in ids if stage.gate(joined.get(one, {})) is None]

    def _read(self, tables: Sequence[str]) -> None:
        """Take the rows of ``tables`` over from the stages passed."""
        wanted = [name for name in tables if name not in self.tables]
        for store in self._passed:
            if wanted:
                self.tables.update(store.rows(self.name, only=wanted))


def quarantined(commits: Sequence[Commit]) -> set[str]:
    """Ids whose newest commit put them into quarantine."""
    bad: set[str] = set()
    for commit in commits:
        bad = (bad - set(commit.ids)) | commit.quarantined
    return bad
