"""Held-out samples for measuring while training: which there are, and the size of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model.config_data import DataConfig, VideoSize
from s2v.model.data.buckets import REASONS, Shapes, fit
from s2v.model.data.exclusions import Exclusions
from s2v.model.errors import ModelError


@dataclass(frozen=True)
class Held:
    """A sample that is never trained on, and the size that training would give it."""

    sample: Sample
    size: VideoSize


def held(index: ShardIndex, config: DataConfig, limit: int) -> tuple[Held, ...]:
    """Held-out scenes, or the test split where the shards hold none out.

    Exclusion lists are honoured. Pair types take turns, each in order of id, so that a small
    limit sees all of them; sizes are those of all phases.

    Args:
        index: of the shards.
        config: sizes, rate, exclusion lists.
        limit: at most so many.

    Raises:
        ModelError: nothing is left; the message counts the reasons.
    """
    table = index.table
    use_test = not any(table.column("heldout").to_pylist())
    wanted = table.column("split").to_pylist() if use_test else []
    flags = [s == "test" for s in wanted] if use_test else table.column("heldout").to_pylist()
    excluded = Exclusions.read(config.exclusions, table)
    sizes = tuple({size: None for stage in config.stages() for size in stage.sizes})
    clips = Shapes(
        np.array(table.column("frames").to_pylist(), np.int64),
        np.array(table.column("fps").to_pylist(), np.float64),
        np.array(table.column("height").to_pylist(), np.int64),
        np.array(table.column("width").to_pylist(), np.int64),
    )
    fits = fit(clips, sizes, rate=config.fps, max_enlarge=config.max_enlarge)
    kinds: dict[str, list[Held]] = defaultdict(list)
    left: Counter[str] = Counter()
    for row, flag in enumerate(flags):
        why = _reason(row, bool(flag), excluded, int(fits.size[row]), int(fits.reasons[row]))
        sample = None if why else index[row]
        if sample is not None and excluded.asks:
            why = excluded.reason(sample.meta())
        if sample is None or why:
            left[str(why)] += 1
        else:
            kinds[str(sample.row["pair_type"])].append(Held(sample, fits.sizes[fits.size[row]]))
    found = by_turns(kinds)
    if not found:
        told = ", ".join(f"{n} {reason}" for reason, n in sorted(left.items())) or "none at all"
        raise ModelError(
            f"{index.folder}: no sample to validate on among {len(index)}: {told}; hold some out "
            "(select.split.heldout_share), or set validation.every and sample_every to 0"
        )
    return found[:limit]


def by_turns(kinds: dict[str, list[Held]]) -> tuple[Held, ...]:
    """One of each kind after the other, each kind in order of id."""
    turns = [sorted(kinds[kind], key=lambda h: h.sample.id) for kind in sorted(kinds)]
    longest = max((len(turn) for turn in turns), default=0)
    return tuple(turn[n] for n in range(longest) for turn in turns if n < len(turn))


def _reason(row: int, held_out: bool, excluded: Exclusions, size: int, reason: int) -> str | None:
    if not held_out:
        return "not held out"
    if excluded.reasons is not None and excluded.reasons[row]:
        return str(excluded.reasons[row])
    return None if size >= 0 else REASONS[reason]
