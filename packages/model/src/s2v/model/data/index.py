"""Which samples of a shard folder are used, and the reason for every one that is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model.config import DataConfig
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.pool import counted
from s2v.model.errors import ModelError

Part = Literal["train", "heldout", "validate"]


@dataclass(frozen=True)
class Window:
    """The frames of one training window: ``start, start + stride, ...``."""

    start: int
    stride: int


@dataclass(frozen=True)
class Selection:
    """Samples in index order, and how many were left out by reason.

    ``len(index) == len(samples) + sum(dropped.values())``.
    """

    samples: tuple[Sample, ...]
    dropped: dict[str, int]


def stride(frames: int, fps: float, config: DataConfig) -> int | None:
    """Source frames per training frame, or None where the clip is too short.

    The stride nearest to ``fps / config.fps``; a clip that cannot afford it may use a smaller
    one, down to half (the motion then plays at most twice as slow).

    Args:
        frames: of the clip.
        fps: of the clip.
        config: window length and rate.
    """
    wanted = max(1, round(fps / config.fps))
    if config.frames == 1:
        return wanted if frames >= 1 else None
    affordable = (frames - 1) // (config.frames - 1)
    chosen = min(wanted, affordable)
    return chosen if chosen >= max(1, -(-wanted // 2)) else None


def windows(frames: int, fps: float, config: DataConfig) -> list[Window]:
    """One window per variant: the first in the middle, the others spread over the clip."""
    step = stride(frames, fps, config)
    if step is None:
        return []
    slack = frames - ((config.frames - 1) * step + 1)
    others = config.variants - 1
    spread = [slack * i // max(1, others - 1) for i in range(others)]
    return [Window(start, step) for start in (slack // 2, *spread)]


def select(index: ShardIndex, config: DataConfig, part: Part) -> Selection:
    """The samples of one part.

    ``train`` takes ``split == "train"`` without held-out scenes; ``heldout`` takes held-out
    scenes and, where the shards have none, the test split; ``validate`` the same, also those
    without a reference.

    Raises:
        ModelError: nothing is left; the message counts the reasons.
    """
    use_test = part != "train" and not any(index.table.column("heldout").to_pylist())
    kept: list[Sample] = []
    dropped: Counter[str] = Counter()
    lists = Exclusions.read(config.exclusions, index.table)
    for row, sample in enumerate(index):
        reason = _reason(sample, config, part, use_test) or _excluded(lists, row, sample)
        if reason is None:
            kept.append(sample)
        else:
            dropped[reason] += 1
    if not kept:
        raise ModelError(
            f"{index.folder}: no sample for {part} among {len(index)}: {counted(dropped)}"
        )
    return Selection(tuple(kept), dict(sorted(dropped.items())))


def _excluded(lists: Exclusions, row: int, sample: Sample) -> str | None:
    """Why a list keeps a sample out, or None; one that cannot be read is found when it is."""
    if lists.reasons is not None and lists.reasons[row] is not None:
        return str(lists.reasons[row])
    try:
        return lists.of_sample(sample)
    except ModelError:
        return None


def _reason(sample: Sample, config: DataConfig, part: Part, use_test: bool) -> str | None:
    """The first rule that keeps a sample out, or None."""
    row = sample.row
    if part == "train":
        rules = {
            "held out": bool(row["heldout"]),
            f"split {row['split']}": row["split"] != "train",
            f"pair type {row['pair_type']} not in data.mix": row["pair_type"] not in config.mix,
        }
    else:
        wanted = row["split"] == "test" if use_test else bool(row["heldout"])
        rules = {"not held out": not wanted}
        if part == "heldout":
            rules["no reference"] = not row["references"]
    rules["clip shorter than the window"] = stride(row["frames"], row["fps"], config) is None
    return next((reason for reason, applies in rules.items() if applies), None)
