"""The figures of a run: counts, rates, spreads; all of them can be written as JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from s2v.datapipe.pair.settings import BANKS
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.selected import kinds_of_samples, pair_steps, verdict_counts

Figures = dict[str, Any]
SCORES = ("motion", "luma", "luma_std", "freeze", "black")


def figures(run: RunFolder) -> Figures:
    """All figures of an opened run."""
    return {
        "run": _run(run),
        "sources": _sources(run),
        "funnel": funnel_rows(run),
        "conservation": run.conservation if isinstance(run.conservation, str) else "holds",
        "clips": _clips(run),
        "subjects": _subjects(run),
        "pairs": _pairs(run),
        "samples": _samples(run),
        "quarantine": run.rows("quarantine"),
        "cpu_seconds": cpu_seconds(run),
        "shards": _shards(run),
    }


def funnel_rows(run: RunFolder) -> list[Figures]:
    """``{table, unit, entered, kept, keep_rate, dropped, quarantined}``, in pipeline order."""
    report = run.conservation
    ledgers = [] if isinstance(report, str) else list(report.ledgers)
    ledgers += [run.written] if run.written else []
    return [
        {
            "table": ledger.table,
            "unit": ledger.unit,
            "entered": ledger.entered,
            "kept": ledger.kept,
            "keep_rate": _ratio(ledger.kept, ledger.entered),
            "dropped": dict(sorted(ledger.dropped.items(), key=lambda d: (-d[1], d[0]))),
            "quarantined": ledger.quarantined,
        }
        for ledger in ledgers
    ]


def cpu_seconds(run: RunFolder) -> Figures:
    """CPU seconds of each measuring stage, as its commits state them, and their total."""
    spent: dict[str, float] = {}
    for stage, fingerprint in run.about.get("fingerprints", {}).items():
        folder = run.folder / "measure" / f"{stage}-{fingerprint}"
        spent[stage] = round(sum(_seconds_of(path) for path in sorted(folder.glob("*.json"))), 1)
    return {"stages": spent, "total": round(sum(spent.values()), 1)}


def _seconds_of(commit: Path) -> float:
    try:
        return float(json.loads(commit.read_text(encoding="utf-8"))["cpu_seconds"])
    except (ValueError, KeyError, TypeError):
        return 0.0  # `s2v-data run` says what is wrong with it; a figure is no place for that


def _run(run: RunFolder) -> Figures:
    settings = run.about["settings"]
    return {
        "folder": settings.get("folder"),
        "title": settings.get("write", {}).get("title"),
        "profile": settings.get("roles", {}).get("profile"),
        "git_commit": run.about.get("git_commit"),
    }


def _sources(run: RunFolder) -> Figures:
    rows = run.rows("sources")
    bad = {row["id"] for row in run.rows("quarantine")} & {row["video_id"] for row in rows}
    probes = [p for p in run.rows("probe") if p["video_id"] not in bad]
    kinds = {row["video_id"]: row["kind"] for row in rows}
    return {
        "total": len(rows),
        "quarantined": len(bad),
        "by_kind": _count(row["kind"] for row in rows),
        "by_origin": _count(row["origin"] for row in rows),
        "by_licence": _count(row["licence"] for row in rows),
        "by_consent": _count(row["consent"] for row in rows),
        "resolutions": _count(f"{p['width']}x{p['height']}" for p in probes),
        "seconds_of_video": round(
            sum(p["duration_us"] or 0 for p in probes if kinds.get(p["video_id"]) == "video") / 1e6,
            3,
        ),
    }


def _clips(run: RunFolder) -> Figures:
    rows = [row for row in run.rows("clips") if row["kind"] == "video"]
    kept = [row for row in rows if run.clip_reasons.get(row["clip_id"]) is None]
    lengths = [(row["end_us"] - row["start_us"]) / 1e6 for row in kept]
    objects = Counter(
        row["clip_id"] for row in run.rows("subjects") if row["reason"] is None
    )  # of kept clips only: a subject of a dropped clip is dropped with it
    return {
        "total": len(rows),
        "kept": len(kept),
        "photographs": len(run.rows("clips")) - len(rows),
        "seconds": spread(lengths),
        "resolutions": _count(f"{row['width']}x{row['height']}" for row in kept),
        "fps": _count(f"{row['fps']:g}" for row in kept if row["fps"] is not None),
        "objects_per_clip": {
            str(n): count
            for n, count in sorted(Counter(objects[row["clip_id"]] for row in kept).items())
        },
        **{name: spread(row[name] for row in kept) for name in SCORES},
    }


def _subjects(run: RunFolder) -> Figures:
    banks: dict[str, Figures] = {}
    rows = run.rows("subjects")
    for bank in (*BANKS, *sorted({row["bank"] for row in rows} - set(BANKS))):
        mine = [row for row in rows if row["bank"] == bank]
        kept = [row for row in mine if row["reason"] is None]
        banks[bank] = {
            "phrases": len(mine),
            "kept": len(kept),
            "with_face": sum(row["face_score"] is not None for row in kept),
            "identities": len({row["identity_id"] for row in kept}),
        }
    kept = [row for row in rows if row["reason"] is None]
    nouns = Counter(row["noun"] for row in kept)
    return {
        "phrases": len(rows),
        "kept": len(kept),
        "by_bank": banks,
        "by_class": _by_count(row["class"] for row in kept if row["class"]),
        "class_source": _by_count(row["class_source"] for row in kept if row["class_source"]),
        "nouns": dict(sorted(nouns.items(), key=lambda item: (-item[1], item[0]))),
    }


def _pairs(run: RunFolder) -> Figures:
    rows = run.rows("pairs")
    accepted = [row for row in rows if row["accepted"]]
    return {
        "candidates": len(rows),
        "accepted": len(accepted),
        "accepted_by_bank": _count(row["bank"] for row in accepted),
        "across_sources": sum(row["gap_us"] is None for row in accepted),
        "refused_by_rule": _by_count(rule for row in rows for rule in row["rules"]),
        "steps": pair_steps(rows),
        "verdicts": verdict_counts(run),
    }


def _samples(run: RunFolder) -> Figures:
    rows = run.rows("samples")
    types = _count(row["pair_type"] for row in rows)
    clips = run.by("clips", "clip_id")
    used = {row["clip_id"] for row in rows}
    lengths = {c: clips[c]["end_us"] - clips[c]["start_us"] for c in used}
    return {
        "total": len(rows),
        "by_type": types,
        "in_to_cross": _ratio(types.get("in", 0), types.get("cross", 0)),
        "by_scenario": _by_count(row["scenario"] for row in rows),
        "by_kind": kinds_of_samples(run),
        "by_type_and_scenario": _nested((row["pair_type"], row["scenario"]) for row in rows),
        "by_type_and_class": _nested(
            (row["pair_type"], name)
            for row in run.tables["sample_reasons"].to_pylist()
            if row["reason"] is None
            for name in row["classes"] or ()
        ),
        "quotas": run.tables["quotas"].to_pylist(),
        "by_split": _count(row["split"] for row in rows),
        "heldout": sum(row["heldout"] for row in rows),
        "references": _count(str(len(row["references"])) for row in rows),
        "clips": len(used),
        "seconds_of_distinct_clips": round(sum(lengths.values()) / 1e6, 3),
    }


def _shards(run: RunFolder) -> Figures | None:
    if run.shards is None:
        return None
    counts = Counter(run.shards.table["shard"].to_pylist())
    sizes = {name: _bytes(run.folder / "shards" / name) for name in sorted(counts)}
    return {
        "count": len(counts),
        "samples": sum(counts.values()),
        "bytes": sum(one or 0 for one in sizes.values()),
        "missing": [name for name, one in sizes.items() if one is None],
        "by_shard": {n: {"samples": counts[n], "bytes": one} for n, one in sizes.items()},
    }


def _bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def spread(values: Iterable[float | None]) -> Figures:
    """``n``, ``unmeasured`` and the 0, 5, 25, 50, 75, 95, 100 % quantiles of what was measured."""
    every = list(values)
    found = [value for value in every if value is not None]
    named = {"min": 0, "p05": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95, "max": 100}
    points = np.percentile(found, list(named.values())) if found else [None] * len(named)
    quantiles = {
        name: None if point is None else round(float(point), 6)
        for name, point in zip(named, points, strict=True)
    }
    return {"n": len(found), "unmeasured": len(every) - len(found), **quantiles}


def _count(values: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(str(value) for value in values).items()))


def _by_count(values: Iterable[Any]) -> dict[str, int]:
    return dict(sorted(Counter(map(str, values)).items(), key=lambda item: (-item[1], item[0])))


def _nested(values: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for outer, inner in values:
        found[outer][inner] += 1
    return {outer: dict(sorted(found[outer].items())) for outer in sorted(found)}


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None
