"""One shard's samples encoded into one file; of an entry that changed only the changed part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from s2v.datapipe.base.shards import Sample
from s2v.model.config import DataConfig
from s2v.model.data.encoding import Encoders, Features
from s2v.model.data.reader import Clip, Reader
from s2v.model.data.references import FORMS
from s2v.model.errors import ModelError
from s2v.model.latents.container import Writer, writing
from s2v.model.latents.entry import NAMES, Entry, Fault, Parts, Want, content, parts, sized
from s2v.model.latents.stored import serialise
from s2v.model.latents.work import Make, Work

Told = Callable[..., None]  # told(n=1, note="")
_VIDEO, _WORDS = ("video",), ("text", "text_subject", "reference_subject")
_REFERENCES = ("references", "image")


class UnreadableShardError(ModelError):
    """Of a shard's samples not one could be encoded: it is broken, not they."""


@dataclass
class ShardReport:
    """What became of a shard.

    Attributes:
        shard: its name.
        encoded: entries made now.
        kept: entries that were there.
        quarantined: entries that could not be made, now or before.
        removed: entries of samples that are no more, or are something else now.
        bytes: of the file, 0 where there is none.
        wait_s: seconds in which the encoders waited for decoded samples.
        encode_s: seconds of the encoders.
        write_s: seconds of writing.
    """

    shard: str
    encoded: int = 0
    kept: int = 0
    quarantined: int = 0
    removed: int = 0
    bytes: int = 0
    wait_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0


@dataclass(frozen=True)
class Tools:
    """What a process encodes with.

    Attributes:
        encoders: of the run.
        config: its ``data`` section.
        folder: of the fingerprint.
        fingerprint: of the encoders.
        readers: threads that decode ahead; 0 decodes when it is needed.
        retry: try again what could not be encoded.
        prune: drop entries that this recipe does not ask for.
    """

    encoders: Encoders
    config: DataConfig
    folder: Path
    fingerprint: str
    readers: int = 1
    retry: bool = False
    prune: bool = False


def encode_shard(tools: Tools, shard: str, todo: Work, told: Told) -> ShardReport:
    """Bring a shard's file up to date; does nothing where it is.

    Args:
        tools: to encode with.
        shard: its name.
        todo: of :func:`work`.
        told: of every entry.

    Raises:
        UnreadableShardError: none of its samples could be encoded.
        ModelError: the disk is full.
    """
    report, path = ShardReport(shard, removed=todo.removed), tools.folder / shard
    if todo.current:
        report.kept, report.quarantined = todo.count(Entry), todo.count(Fault)
        report.bytes = 0 if todo.old is None else todo.old.size
        told(len(todo.steps), "already there")
        return report
    if not todo.steps:
        path.unlink(missing_ok=True)
        return report
    with writing(path, tools.fingerprint, shard) as writer:
        _fill(writer, tools, todo, report, told)
    report.bytes = path.stat().st_size
    return report


def _fill(writer: Writer, tools: Tools, todo: Work, report: ShardReport, told: Told) -> None:
    faults: list[Fault] = []
    ahead = _read_ahead(tools, todo)
    for step in todo.steps:
        if isinstance(step, Entry):
            began = time.perf_counter()
            writer.copy(step, bytes(todo.data(step)))
            report.write_s += time.perf_counter() - began
            report.kept += 1
            told(1, "already there")
            continue
        if isinstance(step, Fault):
            writer.fault(step)
            report.quarantined += 1
            told(1, "already there")
            continue
        sample, wanted = step.item.sample, step.item.wanted
        try:
            began = time.perf_counter()
            clip = next(ahead)()
            between = time.perf_counter()
            report.wait_s += between - began
            features, made_of = _encoded(tools, todo, step, clip)
            data = serialise(features, wanted)
            report.encode_s += time.perf_counter() - between
        except ModelError as error:
            fault = _fault(sample, wanted, error)
            writer.fault(fault)
            faults.append(fault)
            report.quarantined += 1
        else:
            began = time.perf_counter()
            writer.add(
                wanted, sample_id=sample.id, content=content(sample), parts=made_of, data=data
            )
            report.write_s += time.perf_counter() - began
            report.encoded += 1
        told(1)
    if len(faults) == len(todo.steps) > 1:
        raise UnreadableShardError(
            f"{report.shard}: not one of its {len(faults)} samples could be encoded, the first: "
            f"{faults[0].message}"
        )


def _fault(sample: Sample, wanted: Want, error: ModelError) -> Fault:
    # Without the folder's name: the same shards elsewhere give the same bytes.
    message = str(error).replace(f"{sample.folder}/", "")
    return Fault(sample_id=sample.id, size=wanted.size, content=content(sample), message=message)


@dataclass(frozen=True)
class _Read:
    """A decoded sample, as much of it as is needed, and what was made before of the rest."""

    clip: Clip
    parts: Parts
    known: dict[str, Tensor]


def _read(tools: Tools, todo: Work, step: Make) -> _Read:
    """Decode what changed since the entry that was there."""
    sample, wanted = step.item.sample, step.item.wanted
    reader = Reader(
        sized(tools.config, wanted.size).model_copy(update={"variants": len(wanted.windows)})
    )
    head = reader.read(sample, videos=False, references=False)
    now = parts(sample, head.meta, wanted)
    known = _known(todo, step, now, wanted)
    clip = reader.read(sample, videos="video" not in known, references="references" not in known)
    return _Read(clip, now, known)


def _known(todo: Work, step: Make, now: Parts, wanted: Want) -> dict[str, Tensor]:
    """Tensors of the entry that was there whose inputs are the same."""
    before = step.before
    if before is None:
        return {}
    names = [n for n in _VIDEO if before.parts.video == now.video]
    if before.references == wanted.references and before.forms == wanted.forms:
        names += [n for n in _REFERENCES if before.parts.references == now.references]
    names += [n for n in _WORDS if before.parts.text == now.text]
    if not names:
        return {}
    try:
        stored = load(bytes(todo.data(before)))
        return {n: stored[n].float() if n not in _WORDS[1:] else stored[n] for n in names}
    except (ModelError, SafetensorError, KeyError):
        return {}  # a shortcut that is broken


def _encoded(tools: Tools, todo: Work, step: Make, read: _Read) -> tuple[Features, Parts]:
    wanted, known, encoders = step.item.wanted, dict(read.known), tools.encoders
    config = sized(tools.config, wanted.size)
    if "video" not in known:
        known["video"] = encoders.videos(read.clip, config)
    if "references" not in known:
        made = encoders.references(read.clip, config, len(wanted.windows))
        known["references"], known["image"] = made
    else:  # as stored: the wanted forms only
        at = [wanted.forms.index(f) if f in wanted.forms else 0 for f in FORMS]
        for name in _REFERENCES:
            known[name] = known[name][:, :, at]
    if "text" not in known:
        made_words = encoders.words(read.clip.meta, wanted.references)
        known |= dict(zip(_WORDS, made_words, strict=True))
    return Features(**{name: known[name] for name in NAMES}), read.parts


def _read_ahead(tools: Tools, todo: Work) -> Iterator[Callable[[], _Read]]:
    """One callable per entry to be made, in order, that returns it decoded or raises.

    Threads decode a little ahead of the encoders; what comes out does not depend on how many.
    """
    if not tools.readers:
        for make in todo.made:
            yield lambda make=make: _read(tools, todo, make)  # type: ignore[misc]
        return
    waiting = iter(todo.made)
    with ThreadPoolExecutor(tools.readers) as pool:
        queue: list[Future[_Read]] = [
            pool.submit(_read, tools, todo, make) for make in islice(waiting, tools.readers + 1)
        ]
        try:
            while queue:
                yield queue.pop(0).result
                queue += [pool.submit(_read, tools, todo, make) for make in islice(waiting, 1)]
        finally:
            for future in queue:
                future.cancel()


def totals(reports: Sequence[ShardReport]) -> Counter[str]:
    """Numbers of several shards added up."""
    out: Counter[str] = Counter()
    for report in reports:
        out.update({k: v for k, v in vars(report).items() if k != "shard"})
    return out
