"""``s2v-model encode``: a shard folder's samples as features, made once.

Each shard becomes one file, written aside and renamed: whatever kills the process costs at most
the shards in hand, and the same command goes on. A file is a function of the shard's samples, the
recipe and the encoders: how many processes shared the work does not show in it.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save

from s2v.datapipe.base.atomic import sweep, write_bytes
from s2v.model.config import Config
from s2v.model.data.encoding import Encoders
from s2v.model.errors import ModelError
from s2v.model.latents import identity
from s2v.model.latents.container import DiskFullError
from s2v.model.latents.entry import Entry, Fault
from s2v.model.latents.estimate import Sizes, admit
from s2v.model.latents.folder import EMPTY, NAME
from s2v.model.latents.plan import PARTS, Part, Plan, Shard, Task, divide
from s2v.model.latents.shard import ShardReport, Told, Tools, encode_shard, totals
from s2v.model.latents.work import Make, Work, work
from s2v.model.progress import Track, quiet

_PACKAGES: Final = (
    "s2v-model", "torch", "numpy", "av", "opencv-python-headless", "pillow", "diffusers",
    "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class EncodeResult:
    """What an encoding left; of several processes each says what it did, and how all stands.

    ``samples == encoded + quarantined + excluded + open``, counted in samples.

    Attributes:
        folder: of the fingerprint.
        fingerprint: of the encoders.
        samples: in the shards' index.
        encoded: have all their entries.
        quarantined: could not be encoded; ``quarantine.jsonl`` beside the files says why.
        excluded: are not trained on or measured with, by reason.
        open: not encoded yet: another process's, or of a shard that failed.
        made: entries made by this process now.
        kept: entries that it found made.
        removed: stale entries that it dropped.
        bytes: of all files.
        seconds: this process spent, by what it waited for: ``decode``, ``encoders``, ``disk``.
        bound: the largest of these.
        per_second: entries made per second of that time.
        failed: shards that could not be encoded, with the reason.
    """

    folder: str
    fingerprint: str
    samples: int
    encoded: int
    quarantined: int
    excluded: dict[str, int]
    open: int
    made: int
    kept: int
    removed: int
    bytes: int
    seconds: dict[str, float] = field(default_factory=dict)
    bound: str = ""
    per_second: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)


class Encoding:
    """One encoding, which one process or many carry out.

    Args:
        config: of the run.
        shards: the shard folder.
        encoders: of the run.
        out: where fingerprints' folders lie; ``shards/latents`` by default.
        parts: which samples.
        retry: try again what could not be encoded.
        prune: drop entries at sizes that this recipe does not ask for.
        readers: threads that decode ahead.
    """

    def __init__(
        self,
        config: Config,
        shards: str | Path,
        encoders: Encoders,
        out: str | Path | None = None,
        *,
        parts: Sequence[Part] = PARTS,
        retry: bool = False,
        prune: bool = False,
        readers: int = 1,
    ) -> None:
        self.config, self.plan = config, Plan(config, shards, parts)
        made_by = encoders.made_by(config.data)
        root = Path(out) if out is not None else self.plan.index.folder / NAME
        mark = identity.fingerprint(made_by)
        self.made_by, self.folder = made_by, root / mark
        self.tools = Tools(encoders, config.data, self.folder, mark, readers, retry, prune)

    def needed(self) -> int:
        """Bytes still to be written, at most."""
        sizes = Sizes.of(self.tools.encoders, self.config.encoders.text_tokens)
        made = copied = 0
        for task in self.plan.tasks:
            todo = self.work(task, self.plan.shard(task))
            made += sum(sizes.of_item(make.item) for make in todo.made)
            copied = max(copied, todo.copied_bytes)
        return made + copied

    def begin(self) -> None:
        """Check the disk, clear what killed writers left, say what makes the entries.

        Raises:
            ModelError: the disk is too small, or the folder is of something else.
        """
        admit(self.folder, self.needed())
        if self.folder.is_dir():
            sweep(self.folder)
        encoders = self.tools.encoders
        identity.write(self.folder, self.made_by, about(encoders))
        identity.read(self.folder)
        if not (self.folder / EMPTY).is_file():
            write_bytes(self.folder / EMPTY, save({"text": encoders.caption("").contiguous()}))

    def work(self, task: Task, shard: Shard) -> Work:
        """What a shard's file lacks, see :func:`.work.work`."""
        t, path = self.tools, self.folder / task.shard
        return work(path, t.fingerprint, shard.samples, shard.items, retry=t.retry, prune=t.prune)

    def one(self, task: Task, told: Told) -> ShardReport:
        """Bring one shard's file up to date; see :func:`.shard.encode_shard` for what it raises."""
        return encode_shard(self.tools, task.shard, self.work(task, self.plan.shard(task)), told)

    def finish(
        self, reports: Sequence[ShardReport], failed: dict[str, str] | None = None
    ) -> EncodeResult:
        """Drop files of shards that are no more, list the faults, and count everything.

        Args:
            reports: of this process's shards.
            failed: shards that it could not encode, with the reason.
        """
        names = {task.shard for task in self.plan.tasks}
        for path in sorted(self.folder.glob("*.tar")):
            if path.name not in names:
                path.unlink(missing_ok=True)
        stands: Counter[str] = Counter()
        lines = []
        excluded = Counter(self.plan.excluded)
        for task in self.plan.tasks:
            shard = self.plan.shard(task)
            todo, asked = self.work(task, shard), {item.sample.id for item in shard.items}
            excluded.update(shard.excluded)
            stands["bytes"] += 0 if todo.old is None else todo.old.size
            state: dict[str, str] = {}
            for step in todo.steps:
                sample_id, what = _state(step)
                state[sample_id] = max(what, state.get(sample_id, ""), key=_WORST.index)
                if isinstance(step, Fault):
                    about_it = {"shard": task.shard, "size": list(step.size)}
                    lines.append({"sample_id": sample_id, "message": step.message, **about_it})
            stands.update(Counter(what for name, what in state.items() if name in asked))
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        write_bytes(self.folder / "quarantine.jsonl", text.encode())
        done = totals(reports)
        seconds = {"decode": done["wait_s"], "encoders": done["encode_s"], "disk": done["write_s"]}
        spent = sum(seconds.values())
        return EncodeResult(
            folder=str(self.folder),
            fingerprint=self.tools.fingerprint,
            samples=len(self.plan.index),
            encoded=stands["encoded"],
            quarantined=stands["quarantined"],
            excluded=dict(sorted(excluded.items())),
            open=stands["open"],
            made=int(done["encoded"]),
            kept=int(done["kept"]),
            removed=int(done["removed"]),
            bytes=stands["bytes"],
            seconds={name: round(value, 3) for name, value in seconds.items()},
            bound=max(seconds, key=lambda name: seconds[name]) if done["encoded"] else "",
            per_second=round(done["encoded"] / spent, 3) if spent else 0.0,
            failed=failed or {},
        )


_WORST: Final = ("", "encoded", "open", "quarantined")


def _state(step: Entry | Fault | Make) -> tuple[str, str]:
    if isinstance(step, Make):
        return step.item.sample.id, "open"
    return step.sample_id, "quarantined" if isinstance(step, Fault) else "encoded"


def encode(
    encoding: Encoding, track: Track = quiet, *, rank: int = 0, world: int = 1
) -> EncodeResult:
    """Encode this process's share of the shards.

    Args:
        encoding: what, with what, where.
        track: where progress is shown.
        rank: of this process.
        world: number of processes; each shard is one process's.

    Raises:
        ModelError: the disk is too small or full; or a shard could not be encoded, after all
            others were.
    """
    torch.set_num_threads(encoding.config.train.threads)
    encoding.begin()
    mine = divide(encoding.plan.tasks, rank, world)
    reports: list[ShardReport] = []
    failed: dict[str, str] = {}
    with track("encode", sum(task.count for task in mine)) as told:
        for task in mine:
            try:
                reports.append(encoding.one(task, told))
            except DiskFullError:
                raise
            except ModelError as error:
                failed[task.shard] = str(error)
    return settle(encoding, reports, failed)


def settle(
    encoding: Encoding, reports: Sequence[ShardReport], failed: dict[str, str]
) -> EncodeResult:
    """:meth:`Encoding.finish`, and an error where a shard failed.

    Raises:
        ModelError: names the failed shards.
    """
    result = encoding.finish(reports, failed)
    if failed:
        raise ModelError(failure(asdict(result)))
    return result


def failure(result: dict[str, Any]) -> str:
    """One line on the shards that failed."""
    failed: dict[str, str] = result["failed"]
    shards = sorted(failed)
    more = f" and {len(shards) - 5} more" if len(shards) > 5 else ""
    return (
        f"{result['folder']}: {result['encoded']} samples are encoded, but {len(shards)} shards "
        f"could not be ({', '.join(shards[:5])}{more}): {failed[shards[0]]}; mend them, then the "
        "same command goes on"
    )


def about(encoders: Encoders) -> dict[str, Any]:
    """What ``encoder.json`` tells beside the fingerprint's fields.

    Widths let a run be built without loading the encoders; packages and machine are told because
    the same weights may give other last bits elsewhere.
    """
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "widths": {
            "latent": encoders.video.channels,
            "text": encoders.text.width,
            "image": encoders.image.width,
            "image_tokens": encoders.image.tokens,
        },
        "packages": packages,
        "device": torch.cuda.get_device_name() if cuda else f"cpu ({platform.machine()})",
    }
