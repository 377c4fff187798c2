"""What a process was about when it died: a note beside the commits of a stage.

A crash inside a library, or the kernel's out-of-memory killer, takes the whole actor. Ray starts
it again and gives it the same unit, without end. The note tells the next attempt what the last
one died of, so that the row that kills its process goes to quarantine and costs no other row.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

WHOLE_TRIES = 2  # of all rows at once: a machine that was taken away says nothing of the rows
ROW_TRIES = 2  # of a single row, after that
LOAD_TRIES = 3  # of loading a stage's models

LOADING, WHOLE = "+loading", "+whole"  # no id begins so


class Attempts:
    """The note of one unit in one stage, one object per attempt.

    Notes of another session (the driver was started again) do not count.

    Args:
        path: the note's file; it is there only while a process is at work, or died at it.
        session: of the driver.
    """

    def __init__(self, path: Path, session: str) -> None:
        self.path, self.session = path, session
        last: dict[str, str] = {}  # attempt -> what it was about in the end
        for line in self._lines():
            words = line.split("\t")
            if len(words) == 3 and words[0] == session:
                last[words[1]] = words[2]
        self.deaths = Counter(last.values())
        self._attempt = len(last)

    def begin(self, what: str) -> None:
        """Note what is about to be done: an id, :data:`LOADING` or :data:`WHOLE`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as note:
            note.write(f"{self.session}\t{self._attempt}\t{what}\n")

    def end(self) -> None:
        """The attempt came to an end that was no death."""
        self.path.unlink(missing_ok=True)

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
