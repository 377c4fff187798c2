"""What a shard's file lacks: what is there is kept, what changed is made, what is gone goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from s2v.datapipe.base.shards import Sample
from s2v.model.errors import ModelError
from s2v.model.latents.container import LatentsFile
from s2v.model.latents.entry import Entry, Fault, Size, content
from s2v.model.latents.plan import Item


@dataclass(frozen=True)
class Make:
    """An entry that has to be made; ``before`` is what was there of the sample, if anything."""

    item: Item
    before: Entry | None


@dataclass
class Work:
    """What a shard's file will hold, in its order, and what of that has to be made.

    Attributes:
        old: the file as it is, None where there is none or a damaged one.
        steps: what becomes of every entry.
        removed: entries of the old file that go.
        current: the old file is what is wanted already.
    """

    old: LatentsFile | None
    steps: list[Entry | Fault | Make] = field(default_factory=list)
    removed: int = 0
    current: bool = False

    def count(self, kind: type) -> int:
        """How many steps are of a kind."""
        return sum(isinstance(step, kind) for step in self.steps)

    @property
    def made(self) -> list[Make]:
        """What has to be made."""
        return [step for step in self.steps if isinstance(step, Make)]

    def data(self, entry: Entry) -> bytearray:
        """The bytes of an entry of the old file, checked.

        Raises:
            ModelError: they are not those that its index tells of.
        """
        if self.old is None:
            raise ModelError(f"{entry.sample_id}: there is no file to take it from")
        return self.old.data(entry)

    @property
    def copied_bytes(self) -> int:
        """What a new file takes over of the old, which stays until the rename."""
        if self.current:
            return 0
        return sum(step.bytes for step in self.steps if isinstance(step, Entry))


def work(
    path: Path,
    fingerprint: str,
    samples: Sequence[Sample],
    items: Sequence[Item],
    *,
    retry: bool = False,
    prune: bool = False,
) -> Work:
    """Compare a shard's file with what is wanted.

    Entries at other sizes, and of samples that are not wanted now, stay: another recipe reads
    them. Those of samples that are not named go.

    Args:
        path: of the file.
        fingerprint: of the encoders.
        samples: all that the shard has and no list takes down.
        items: what is wanted of them, in their order.
        retry: try again what could not be encoded.
        prune: drop what is not wanted.
    """
    out = Work(_opened(path, fingerprint))
    entries: dict[tuple[str, Size], Entry] = {}
    faults: dict[tuple[str, Size], Fault] = {}
    if out.old is not None:
        entries = {(e.sample_id, e.size): e for e in out.old.index.entries}
        faults = {(f.sample_id, f.size): f for f in out.old.index.faults}
    by_sample: dict[str, dict[Size, Item]] = {}
    for item in items:
        by_sample.setdefault(item.sample.id, {})[item.wanted.size] = item
    sizes: dict[str, set[Size]] = {}
    for sample_id, size in entries:
        sizes.setdefault(sample_id, set()).add(size)
    for sample in samples:
        now, mine = content(sample), by_sample.get(sample.id, {})
        others = set() if prune else sizes.get(sample.id, set())
        for size in sorted(mine.keys() | others):
            entry, fault = entries.get((sample.id, size)), faults.get((sample.id, size))
            wanted = mine.get(size)
            if entry and entry.content == now and (not wanted or entry.has(wanted.wanted)):
                out.steps.append(entry)
            elif wanted and fault and fault.content == now and not retry:
                out.steps.append(fault)
            elif wanted:
                out.steps.append(Make(wanted, entry))
    out.removed = len(entries) - out.count(Entry)
    out.removed -= sum(make.before is not None for make in out.made)
    same = not out.made and not out.removed and out.count(Fault) == len(faults)
    out.current = same and (out.old is not None or not out.steps)
    return out


def _opened(path: Path, fingerprint: str) -> LatentsFile | None:
    """The file as it is; a damaged one, or one that is no such file, is as good as none."""
    if not path.is_file():
        return None
    try:
        file = LatentsFile(path)
        good = file.index.fingerprint == fingerprint and file.index.shard == path.name
    except ModelError:
        return None
    return file if good else None
