"""What the roles of a served model share; how an answer is read is each role's own."""

from __future__ import annotations

from typing import ClassVar

from s2v.datapipe.backends.vlm.asking import Asker


class ServedRole:
    """A role behind an :class:`Asker`.

    Attributes:
        reading: name and version of how answers are read, for roles whose rows do not carry the
            prompt's digest: prompt and reading are then part of the model's id.
    """

    reading: ClassVar[str] = ""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    @property
    def model_id(self) -> str:
        """Server family, name and revision; and prompt and reading, see ``reading``."""
        if not self.reading:
            return self._asker.model_id
        return f"{self._asker.model_id}+{self._asker.prompt_id}+{self.reading}"

    @property
    def prompt_sha256(self) -> str:
        """Over prompt, schema, sampling and pictures."""
        return self._asker.prompt_sha256

    @property
    def concurrency(self) -> int:
        """Clips in flight per actor; several questions on one clip go one after another."""
        return self._asker.options.concurrency

    def load(self) -> None:
        """See that the servers serve the model."""
        self._asker.client.load()
