"""Sources with licence and credit, the quarantine, and what the run depends on."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Final

from s2v.datapipe.base.markup import Content, Markup, element, join, table
from s2v.datapipe.report.figures import Figures
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.wording import listed, number, seconds, size

_CREDITS: Final = 8


def used_sources(run: RunFolder) -> set[str]:
    """Sources that a sample shows, as target or as reference."""
    video = {row["subject_id"]: row["video_id"] for row in run.rows("subjects")}
    used: set[str] = set()
    for row in run.rows("samples"):
        used.add(row["video_id"])
        used |= {video[ref["reference_subject_id"]] for ref in row["references"]}
    return used


def render_credits(run: RunFolder) -> Markup | None:
    """Whose work is shown, and under which licence; the most shown first."""
    used = used_sources(run)
    samples = Counter(row["video_id"] for row in run.rows("samples"))
    owned: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in run.rows("sources"):
        if row["video_id"] in used:
            key = (row["credit"] or "Credit not stated", row["licence"] or "not stated")
            owned[key].append(row["video_id"])
    if not owned:
        return None
    items = [
        element(
            "li",
            element("b", credit),
            f", licence: {licence}",
            element("span", f" ({listed(videos)})", class_="small"),
        )
        for (credit, licence), videos in sorted(
            owned.items(), key=lambda item: (-sum(samples[v] for v in item[1]), item[0])
        )
    ]
    return element(
        "div",
        element("h2", "Credits of what is shown", class_="quiet"),
        element("ul", *items[:_CREDITS]),
        _more(items[_CREDITS:]),
        class_="credits",
    )


def _more(items: list[Markup]) -> Markup | None:
    if not items:
        return None
    return element("details", element("summary", f"{len(items)} more"), element("ul", *items))


def render_sources(run: RunFolder) -> Markup:
    """Every source: what it is, whose it is, what became of it."""
    probes = run.by("probe", "video_id")
    bad = {row["id"] for row in run.rows("quarantine")}
    clips = Counter(row["video_id"] for row in run.rows("clips"))
    kept = Counter(
        row["video_id"] for row in run.rows("clips") if run.clip_reasons[row["clip_id"]] is None
    )
    targets = Counter(row["video_id"] for row in run.rows("samples"))
    video_of = {row["subject_id"]: row["video_id"] for row in run.rows("subjects")}
    shown = Counter(
        video_of[ref["reference_subject_id"]]
        for row in run.rows("samples")
        for ref in row["references"]
    )
    rows: list[list[Content]] = []
    for row in run.rows("sources"):
        video = row["video_id"]
        probe = probes.get(video)
        part = row["long_video_id"] if row["long_video_id"] != video else None
        rows.append(
            [
                join(video, element("span", f" part of {part}", class_="small") if part else None),
                row["origin"],
                seconds(probe["duration_us"]) if probe and row["kind"] == "video" else "–",
                f"{probe['width']}×{probe['height']}" if probe else "–",
                "in quarantine" if video in bad else f"{kept[video]} of {clips[video]}",
                number(targets[video]),
                number(shown[video]),
                row["licence"],
                row["consent"],
                _credit(row["credit"], row["url"]),
            ]
        )
    columns = (
        *("source", "origin", "length", "pixels", "clips kept", "targets", "references"),
        *("licence", "consent", "credit"),
    )
    return table(columns, rows, "Sources", class_="sources quiet")


def _credit(credit: str | None, url: str | None) -> Markup:
    """Credit and address; only web addresses become links, and nothing is sent along."""
    link = None
    if url and url.startswith(("https://", "http://")):
        link = element("a", url, href=url, rel="noreferrer noopener")
    return join(credit or "not stated", element("br") if link else None, link)


def render_quarantine(run: RunFolder) -> Markup:
    """What could not be measured or cut, and how to try again."""
    rows: list[list[Content]] = [
        [row[name] for name in ("id", "stage", "error", "message", "retry")]
        for row in run.rows("quarantine")
    ]
    if not rows:
        return element("p", "Nothing is in quarantine.")
    columns = ("what", "stage", "error", "message", "way out")
    return table(columns, rows, "Inputs that could not be used")


def render_made(run: RunFolder, found: Figures) -> Markup:
    """Versions, models, fingerprints, shards and the whole configuration."""
    about = run.about
    spent = found["cpu_seconds"]["stages"]
    stages: list[list[Content]] = [
        [stage, element("code", fingerprint), number(spent.get(stage), 1)]
        for stage, fingerprint in about.get("fingerprints", {}).items()
    ]
    models: list[list[Content]] = [
        [role, element("code", "none" if model is None else model)]
        for role, model in sorted(about.get("models", {}).items())
    ]
    packages: list[list[Content]] = [
        [name, element("code", version or "not installed")]
        for name, version in sorted(about.get("packages", {}).items())
    ]
    shards: list[list[Content]] = [
        [name, number(one["samples"]), size(one["bytes"]) if one["bytes"] else "missing"]
        for name, one in ((found["shards"] or {}).get("by_shard") or {}).items()
    ]
    settings = json.dumps(about["settings"], indent=2, sort_keys=True, ensure_ascii=False)
    return join(
        table(("role", "model"), models, "Models"),
        element(
            "div",
            table(("stage", "fingerprint", "CPU seconds"), stages, "Stages"),
            table(("package", "version"), packages, "Packages"),
            table(("shard", "samples", "size"), shards, "Shards") if shards else None,
            class_="columns",
        ),
        element(
            "details",
            element("summary", "Configuration, as it was resolved"),
            element("pre", settings, tabindex="0"),
        ),
    )
