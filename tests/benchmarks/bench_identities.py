"""Known pairs among distractors and copies: what a two-sided bound keeps, and what a one-sided.

    python tests/benchmarks/bench_identities.py --sizes 1000 10000 100000

Long videos of 40 subjects, drawn with the spread of real embeddings (resampled.py): four identities
of four members, 20 distractors (identities of one), two exact copies and two augmented ones of
members (at cosines measured on real crops: JPEG, half size, shifted, brighter, blurred, mirrored).
Both rules judge the same 64 nearest candidates of the same targets, best first, and keep up to 8:

- ours: the bounds of the bank, ``lower <= cosine < upper``, and no hub;
- OpenS2V's: cosine of at least 0.6, no upper bound (its text half cannot be asked of vectors).

Only vectors are judged: the rules that look at hashes, time, nouns and backgrounds, and the
verifier, come on top in a run. A kept pair is right when it shows the target's identity and is no
copy of the target. Recall counts the right pairs of a target that were kept. Beyond 10,000 subjects
2,000 targets are asked of the whole bank, and hubs are not counted, which takes all targets.

``--hubs`` plants one in five hundred subjects that is so blurred that little more is left than what
all have in common, and judges the same candidates with and without the rule against hubs.

Strangers above a bound grow with the bank, true pairs do not: the last columns give the smallest
lower bound whose precision is 0.9 at this size, and its recall.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resampled
from bench_retrieval import MEGABYTE, cpu, peak_memory

from s2v.datapipe.pair.ann import open_search
from s2v.datapipe.pair.hubs import hubs
from s2v.datapipe.pair.index import exact_top
from s2v.datapipe.pair.settings import FaceRules, PairRules, RetrievalSettings

VIDEO, IDENTITIES, MEMBERS, COPIES = 40, 4, 4, 2
ALL_TARGETS = 10_000
SAMPLED = 2000
CANDIDATES, KEPT = 64, 8
OPENS2V = 0.6
WANTED = 0.9  # precision
ONE_IN = 520  # subjects, with --hubs


@dataclass(frozen=True)
class World:
    """Subjects with what is known of them.

    Attributes:
        rows: ``[n, d]`` unit vectors, a video's 40 together, on disk.
        identity: ``[n]``, who it is.
        picture: ``[n]``, which picture it is a copy of; its own number for an original.
    """

    rows: np.ndarray
    identity: np.ndarray
    picture: np.ndarray


def world(kind: str, videos: int, folder: Path) -> World:
    """Draw ``videos`` long videos."""
    spread = resampled.load(kind)
    n = videos * VIDEO
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float16, (n, spread.width))
    known, alone = IDENTITIES * MEMBERS, VIDEO - IDENTITIES * MEMBERS - 2 * COPIES
    for at in range(0, videos, 512):
        count = min(512, videos - at)
        members = spread.draw(count * IDENTITIES, MEMBERS, seed=11 + at)
        members = members.reshape(count, known, -1)
        singles = spread.draw(count * alone, 1, seed=1_000_003 + at).reshape(count, alone, -1)
        of = members[:, ::MEMBERS]  # the first member of each identity is copied
        flat = of[:, COPIES:].reshape(-1, spread.width)
        augmented = spread.copy(flat, seed=at).reshape(count, COPIES, -1)
        block = np.concatenate([members, of[:, :COPIES], augmented, singles], axis=1)
        rows[at * VIDEO : (at + count) * VIDEO] = block.reshape(count * VIDEO, -1)
    rows.flush()
    place = np.arange(VIDEO)
    who, picture = place.copy(), place.copy()
    who[:known] = place[:known] // MEMBERS * MEMBERS
    who[known : known + 2 * COPIES] = picture[known : known + 2 * COPIES] = (
        np.arange(2 * COPIES) * MEMBERS
    )
    first = np.repeat(np.arange(videos) * VIDEO, VIDEO)
    return World(
        np.load(folder / "rows.npy", mmap_mode="r"),
        first + np.tile(who, videos),
        first + np.tile(picture, videos),
    )


def unit(rows: np.ndarray) -> np.ndarray:
    """Float32 rows of length one."""
    wide = np.asarray(rows, np.float32)
    found: np.ndarray = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return found


def everywhere(made: World, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest of the whole bank; the target itself is among them."""
    search = open_search(made.rows, RetrievalSettings())
    return search.top(unit(made.rows[targets]), CANDIDATES + 1)


def own(made: World, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest of the target's long video, as living subjects are searched."""
    parts = []
    for first in np.unique(targets // VIDEO) * VIDEO:
        rows = unit(made.rows[first : first + VIDEO])
        here = targets[targets // VIDEO == first // VIDEO]
        found, cosines = exact_top(rows[here - first], rows, VIDEO)
        parts.append((found + first, cosines))
    positions, cosines = (np.concatenate(side) for side in zip(*parts, strict=True))
    return positions, cosines


def kept(passes: np.ndarray) -> np.ndarray:
    """The first ``KEPT`` that pass, per target."""
    flags: np.ndarray = passes & (np.cumsum(passes, axis=1) <= KEPT)
    return flags


def judge(
    made: World, targets: np.ndarray, found: np.ndarray, flags: np.ndarray
) -> dict[str, float | int]:
    """Figures of one rule's kept pairs, ``[t, k]``."""
    here = targets[:, None]
    copy = made.picture[found] == made.picture[here]
    same = made.identity[found] == made.identity[here]
    right = int((flags & same & ~copy).sum())
    size, pictures = np.bincount(made.identity), np.bincount(made.picture)
    # All of the identity but the copies of the target's picture, which holds itself.
    exist = int((size[made.identity[targets]] - pictures[made.picture[targets]]).sum())
    total = int(flags.sum())
    return {
        "kept": total,
        "precision": round(right / total, 4) if total else float("nan"),
        "recall": round(right / exist, 4),
        "copy_rate": round(float((flags & copy).sum()) / total, 4) if total else float("nan"),
        "wrong_subject": round(float((flags & ~same).sum()) / total, 4) if total else float("nan"),
    }


def lower_for(
    made: World, targets: np.ndarray, found: np.ndarray, rule: Callable[[float], np.ndarray]
) -> dict[str, float | None]:
    """The smallest lower bound, in hundredths, whose kept pairs are right nine times in ten."""
    for hundredths in range(30, 100):
        figures = judge(made, targets, found, rule(hundredths / 100))
        if figures["precision"] >= WANTED:
            return {"lower_90": hundredths / 100, "recall_90": figures["recall"]}
    return {"lower_90": None, "recall_90": None}


Scope = tuple[str, str, Callable[[World, np.ndarray], tuple[np.ndarray, np.ndarray]], float, float]


def scopes() -> list[Scope]:
    """Kind, where, search, and our bounds there: the defaults of the settings."""
    pair, face = PairRules(), FaceRules()
    return [
        ("subject", "own long video", own, pair.creature.lower, pair.creature.upper),
        ("subject", "everywhere", everywhere, pair.thing.lower, pair.thing.upper),
        ("face", "everywhere", everywhere, face.lower, face.upper),
    ]


def run(scope: Scope, size: int, folder: Path) -> list[dict[str, Any]]:
    """Both rules on one bank."""
    kind, where, search, lower, upper = scope
    made = world(kind, size // VIDEO, folder)
    n = len(made.rows)
    targets = np.arange(n) if n <= ALL_TARGETS else np.linspace(0, n - 1, SAMPLED).astype(np.int64)
    with peak_memory() as memory:
        seconds, (found, cosines) = cpu(lambda: search(made, targets))
    other = found != targets[:, None]
    flagged = np.zeros(n, np.bool_)
    if len(targets) == n:
        flagged = hubs(np.repeat(targets, found.shape[1]), found.ravel(), n, RetrievalSettings())
    ours = kept(other & (cosines >= lower) & (cosines < upper) & ~flagged[found])
    theirs = kept(other & (cosines >= OPENS2V))
    shared = {
        "kind": kind,
        "where": where,
        "n": n,
        "targets": len(targets),
        "hubs": int(flagged.sum()) if len(targets) == n else None,
        "candidates_per_cpu_s": round(int(other.sum()) / max(seconds, 1e-9)),
        "peak_mb": memory[0] // MEGABYTE,
    }
    shared |= lower_for(
        made, targets, found, lambda at: kept(other & (cosines >= at) & (cosines < upper))
    )
    return [
        {**shared, "rule": f"ours [{lower}, {upper})", **judge(made, targets, found, ours)},
        {**shared, "rule": "OpenS2V >= 0.6", **judge(made, targets, found, theirs)},
    ]


def plant(made: World, kind: str, folder: Path) -> np.ndarray:
    """Put hubs in place of subjects that appear once; their positions.

    A crop without detail keeps the mean of all embeddings and little of its own: a cosine of 0.96
    to 0.99 to the mean.
    """
    spread = resampled.load(kind)
    at = np.arange(VIDEO - 1, len(made.rows), VIDEO)[:: ONE_IN // VIDEO]
    rng = np.random.default_rng(5)
    mean = spread.mean / np.linalg.norm(spread.mean)
    away = spread.draw(len(at), 1, seed=77)
    away -= (away @ mean)[:, None] * mean
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    share = rng.uniform(0.96, 0.99, (len(at), 1))
    rows = np.load(folder / "rows.npy", mmap_mode="r+")
    rows[at] = share * mean + np.sqrt(1 - share**2) * away
    rows.flush()
    return at


def run_hubs(kind: str, size: int, folder: Path) -> list[dict[str, Any]]:
    """The same candidates, with planted hubs: no rule, ours, and all that is listed counted."""
    _, _, _, lower, upper = next(s for s in scopes() if s[0] == kind and s[1] == "everywhere")
    made = world(kind, size // VIDEO, folder)
    planted = plant(made, kind, folder)
    targets = np.arange(len(made.rows))
    found, cosines = everywhere(made, targets)
    other = found != targets[:, None]
    passes = other & (cosines >= lower) & (cosines < upper)

    def flagged(counted: np.ndarray) -> np.ndarray:
        asking = np.broadcast_to(targets[:, None], found.shape)
        return hubs(asking[counted], found[counted], len(targets), RetrievalSettings())

    none = np.zeros(len(targets), np.bool_)
    results = []
    for name, flags in (
        ("no rule", none),
        ("hubs among what lies above the lower bound", flagged(other & (cosines >= lower))),
        ("hubs among all that is listed", flagged(other)),
    ):
        taken = kept(passes & ~flags[found])
        results.append(
            {
                "kind": kind,
                "n": len(targets),
                "planted": len(planted),
                "rule": name,
                "flagged": int(flags[planted].sum()),
                "others_flagged": int(flags.sum() - flags[planted].sum()),
                "with_a_hub": int(np.isin(found[taken], planted).sum()),
                **judge(made, targets, found, taken),
            }
        )
    return results


def show_hubs(results: list[dict[str, Any]]) -> None:
    """A table for docs/scale.md."""
    columns = ("bank", "subjects", "planted", "rule", "planted found", "others flagged", "kept")
    columns += ("of them a hub", "precision", "recall")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for r in results:
        print(
            f"| {r['kind']} | {r['n']:,} | {r['planted']} | {r['rule']} | {r['flagged']} "
            f"| {r['others_flagged']} | {r['kept']:,} | {r['with_a_hub']:,} | {r['precision']:.3f} "
            f"| {r['recall']:.3f} |"
        )


def show(results: list[dict[str, Any]]) -> None:
    """A table for docs/scale.md."""
    columns = ("bank", "searched", "subjects", "rule", "kept", "precision", "recall")
    columns += ("copy rate", "wrong subject", "candidates per CPU s", "peak, MB", "hubs")
    columns += ("lower for 0.9", "recall there")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for r in results:
        print(
            f"| {r['kind']} | {r['where']} | {r['n']:,} | {r['rule']} | {r['kept']:,} "
            f"| {r['precision']:.3f} | {r['recall']:.3f} | {r['copy_rate']:.3f} "
            f"| {r['wrong_subject']:.3f} | {r['candidates_per_cpu_s']:,} | {r['peak_mb']:,} "
            f"| {_or_dash(r['hubs'])} | {_or_dash(r['lower_90'])} | {_or_dash(r['recall_90'])} |"
        )


def _or_dash(value: float | None) -> str:
    return "-" if value is None else str(value)


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", choices=resampled.KINDS, default=["subject", "face"])
    parser.add_argument("--json", type=Path, help="append results, one a line")
    parser.add_argument("--scratch", type=Path, help="a folder for the banks, on a large disk")
    parser.add_argument("--hubs", action="store_true", help="with planted hubs instead")
    args = parser.parse_args()
    if args.hubs:
        planted = []
        for kind in args.kinds:
            for size in args.sizes:
                with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
                    planted += run_hubs(kind, size, Path(folder))
        show_hubs(planted)
        return 0
    results = []
    for scope in scopes():
        for size in args.sizes if scope[0] in args.kinds else ():
            with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
                results += run(scope, size, Path(folder))
            print(json.dumps(results[-2:]), file=sys.stderr, flush=True)
    if args.json:
        with args.json.open("a") as out:
            out.writelines(json.dumps(result) + "\n" for result in results)
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
