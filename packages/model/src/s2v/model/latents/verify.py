"""A latents folder against its own digests and against the shards it was made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from s2v.model.errors import ModelError
from s2v.model.latents import identity
from s2v.model.latents.container import LatentsFile, member_name
from s2v.model.latents.encode import Encoding
from s2v.model.latents.entry import Entry, Fault
from s2v.model.latents.plan import Item, Task
from s2v.model.latents.stored import StoredFeatures
from s2v.model.progress import Track, quiet

_SHOWN = 20


@dataclass(frozen=True)
class VerifyResult:
    """What a check found in order.

    Attributes:
        folder: of the fingerprint.
        files: checked.
        entries: whose every byte is as the index says, and whose numbers are finite.
        bytes: of all entries.
        quarantined: samples that could not be encoded.
        open: wanted entries that are not there yet.
    """

    folder: str
    files: int
    entries: int
    bytes: int
    quarantined: int
    open: int


def verify(encoding: Encoding, track: Track = quiet) -> VerifyResult:
    """Read everything.

    Raises:
        ModelError: something is damaged, stale or does not belong here; the message names each.
    """
    folder = encoding.folder
    faults: list[str] = []
    found: Counter[str] = Counter()
    identity.read(folder)
    names = {task.shard for task in encoding.plan.tasks}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in names:
            faults.append(f"{path}: the shards have no {path.name}")
    with track("verify", len(encoding.plan.tasks)) as told:
        for task in encoding.plan.tasks:
            faults += _file(encoding, task, found)
            told(1)
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ModelError("; ".join(faults[:_SHOWN]) + more)
    return VerifyResult(
        folder=str(folder),
        files=found["files"],
        entries=found["entries"],
        bytes=found["bytes"],
        quarantined=found["quarantined"],
        open=found["open"],
    )


def _file(encoding: Encoding, task: Task, found: Counter[str]) -> list[str]:
    path = encoding.folder / task.shard
    shard = encoding.plan.shard(task)
    todo = encoding.work(task, shard)
    found["open"] += len(todo.made)
    found["quarantined"] += todo.count(Fault)
    if not path.is_file():
        return []
    try:
        file = LatentsFile(path)
        index = file.index
    except ModelError as error:
        return [str(error)]
    found["files"] += 1
    out = []
    if (index.fingerprint, index.shard) != (encoding.tools.fingerprint, task.shard):
        return [f"{path}: is of {index.shard}, fingerprint {index.fingerprint}"]
    members = [member_name(e.sample_id, e.size) for e in index.entries]
    if list(file.names()) != [*members, "__index__", "__end__"]:
        out.append(f"{path}: its members are not those of its index")
    stale = sum(make.before is not None for make in todo.made) + todo.removed
    if stale:
        out.append(f"{path}: {stale} entries are not of the shard as it is; encode again")
    items = {(item.sample.id, item.wanted.size): item for item in shard.items}
    for entry in index.entries:
        problem = _entry(file, entry, items.get((entry.sample_id, entry.size)))
        if problem:
            out.append(problem)
        else:
            found["entries"] += 1
            found["bytes"] += entry.bytes
    return out


def _entry(file: LatentsFile, entry: Entry, item: Item | None) -> str | None:
    try:
        file.data(entry)
        if item is not None and entry.has(item.wanted):
            name = member_name(entry.sample_id, entry.size)
            stored = StoredFeatures(
                file, name, entry.offset, entry.bytes, item.wanted, entry.forms
            ).load()
            tensors = (stored.video, stored.references, stored.image, stored.text)
            if not all(bool(torch.isfinite(x).all()) for x in tensors):
                return f"{file.path}: {name}: has numbers that are not finite"
    except ModelError as error:
        return str(error)
    return None
