"""The report: one HTML file that holds everything it shows and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s2v.datapipe.base import atomic
from s2v.datapipe.base.markup import Content, Markup, element, join, joined
from s2v.datapipe.base.pages import asset, document
from s2v.datapipe.base.progress import track
from s2v.datapipe.report import bars
from s2v.datapipe.report.facts import render_credits, render_made, render_quarantine, render_sources
from s2v.datapipe.report.figures import Figures, figures
from s2v.datapipe.report.funnel import render_funnel, render_rules
from s2v.datapipe.report.gallery import Gallery, make_gallery, render_filters
from s2v.datapipe.report.histograms import render_histograms
from s2v.datapipe.report.kinds import render_kinds
from s2v.datapipe.report.pair_cards import PairCards
from s2v.datapipe.report.pairs import Accepted, make_accepted, render_pairs
from s2v.datapipe.report.refusals import (
    BY_VERIFIER,
    NEAR_COPY,
    OTHER_SUBJECT,
    Refusals,
    make_refusals,
    render_refusals,
)
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.sections import Section, render_block
from s2v.datapipe.report.wording import number, seconds

__all__ = ["PageTooLargeError", "Section", "build_report"]

_SECTIONS_SHARE: Final = 0.6  # of the page that callers' media may take
_PAIRS_SHARE: Final = 0.4  # of what is left
_ACCEPTED, _NEAR_COPIES, _OTHERS, _VERIFIED = 18, 18, 6, 6


class PageTooLargeError(ValueError):
    """Text, tables and charts alone are over the bound; fewer previews cannot help."""


def build_report(
    folder: Path,
    out: Path,
    sections: Sequence[Section] = (),
    max_bytes: int = 25_000_000,
    *,
    previews: int = 72,
    quiet: bool = True,
) -> Path:
    """Write a self-contained ``report.html`` of a run.

    The same run folder and sections give the same bytes. Small clips are kept in
    ``folder/previews``, so that the second report of a run is quick.

    Args:
        folder: the run folder, with its tables; shards are shown when they are there.
        out: the file to write; it appears whole or not at all.
        sections: what callers add (training, samples, evaluation), after the run's own.
        max_bytes: size of the file at most. Clips and pictures are left out first, and the
            page says how many of how many it shows.
        previews: triplets shown at most.
        quiet: no progress.

    Returns:
        ``out``.

    Raises:
        RunFolderError: no run there, or it has no tables yet.
        PageTooLargeError: without any picture the page is over ``max_bytes``.
        ValueError: a section's media are of an unknown type, or a chart has no points.
    """
    run = RunFolder(Path(folder))
    found = figures(run)
    extra = [(one.title, _Room(round(max_bytes * _SECTIONS_SHARE))) for one in sections]
    rendered = _sections(sections, extra)
    blank = Gallery(Markup(), [], 0)
    nothing = _Pairs(Accepted([], 0), *[Refusals([], 0)] * 3)
    bare = _page(run, found, blank, nothing, rendered)
    # Filters and counts come with the cards.
    room = max_bytes - len(bare.encode()) - 16_000
    if room < 0:
        raise PageTooLargeError(
            f"{out}: {len(bare.encode())} bytes without any triplet, over max_bytes = "
            f"{max_bytes}; raise it, or give smaller sections"
        )
    beside = _Room(round(room * _PAIRS_SHARE))
    pairs = _pairs(run, beside)
    most = min(previews, len(run.shards) if run.shards else 0)
    with track("report", most, quiet=quiet) as step:
        gallery = make_gallery(run, run.folder / "previews", most, _Room(room - beside.used), step)
    page = _page(run, found, gallery, pairs, rendered)
    atomic.write_bytes(out, page.encode())
    return out


@dataclass(frozen=True)
class _Pairs:
    """Pairs side by side."""

    accepted: Accepted
    copies: Refusals
    others: Refusals
    verified: Refusals


def _pairs(run: RunFolder, room: _Room) -> _Pairs:
    """Cards of pairs; each kind has a part of the room of its own."""
    maker = PairCards(run)

    def part(share: float) -> _Room:
        return _Room(min(round(room.limit * share), room.limit - room.used))

    made: list[Refusals] = []
    first = part(0.4)
    accepted = make_accepted(run, maker, _ACCEPTED, first)
    room.used += first.used
    for rules, most, share in (
        (NEAR_COPY, _NEAR_COPIES, 0.4),
        (OTHER_SUBJECT, _OTHERS, 0.1),
        (BY_VERIFIER, _VERIFIED, 0.1),
    ):
        mine = part(share)
        made.append(make_refusals(run, maker, rules, most, mine))
        room.used += mine.used
    return _Pairs(accepted, *made)


class _Room:
    """How many bytes may still be added; one answer of no is the last."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def __call__(self, count: int) -> bool:
        if self.used + count > self.limit:
            self.limit = self.used
            return False
        self.used += count
        return True


def _sections(
    sections: Sequence[Section], rooms: Sequence[tuple[str, _Room]]
) -> list[tuple[str, Markup]]:
    """Callers' sections; they share their part of the page in order."""
    rendered = []
    used = 0
    for section, (title, room) in zip(sections, rooms, strict=True):
        room.limit -= used
        body = joined(render_block(block, room) for block in section.blocks)
        used += room.used
        rendered.append((title, body))
    return rendered


def _page(
    run: RunFolder,
    found: Figures,
    gallery: Gallery,
    pairs: _Pairs,
    extra: Sequence[tuple[str, Markup]],
) -> str:
    parts: list[tuple[str, Markup]] = [
        ("Triplets", _triplets(run, gallery)),
        ("Kinds of samples", render_kinds(found)),
        ("Pairs", render_pairs(found, pairs.accepted)),
        (
            "Refused pairs",
            join(
                element("h3", "Near copies"),
                element(
                    "p",
                    "A reference that shows the same picture teaches a model to paste pixels. "
                    "These candidates were refused for it; the target is on the left.",
                ),
                render_refusals(pairs.copies, "No candidate was a near copy."),
                element("h3", "Other subjects"),
                element("p", "Candidates that are alike and still not the same subject."),
                render_refusals(pairs.others, "No candidate was another subject."),
                element("h3", "By the verifier"),
                element("p", "Candidates that passed every rule, and that the verifier refused."),
                render_refusals(pairs.verified, "The verifier refused none."),
                element("h3", "All rules"),
                render_rules(run, found),
            ),
        ),
        ("Funnel", render_funnel(found)),
        ("Scores and thresholds", render_histograms(run)),
        *extra,
        ("Quarantine", render_quarantine(run)),
        ("Sources and licences", render_sources(run)),
        ("How it was made", render_made(run, found)),
    ]
    titled = [(title, f"part-{n}", body) for n, (title, body) in enumerate(parts, start=1)]
    return _document(
        f"{found['run']['title'] or 'A run'}: report",
        _header(run, found),
        element(
            "nav",
            element(
                "ul",
                *(element("li", element("a", t, href=f"#{key}")) for t, key, _ in titled),
            ),
            aria_label="Parts of the report",
        ),
        element(
            "main",
            *(
                element("section", element("h2", t, id=f"{key}-title"), body, id=key,
                        aria_labelledby=f"{key}-title")
                for t, key, body in titled
            ),
            id="content",
        ),
    )  # fmt: skip


def _triplets(run: RunFolder, gallery: Gallery) -> Markup:
    if run.shards is None:
        return element("p", "No shards were written yet, so there are no samples to show.")
    if not len(run.shards):
        return element("p", "The shards hold no samples: the funnel says where all went.")
    about = (
        "A reference image, a caption and a clip. In-paired, the reference is cut from the clip "
        "itself; cross-paired, it shows the same subject somewhere else. A phrase is marked in "
        "the colour and number of its reference."
    )
    return join(
        element("p", about),
        render_filters(gallery.shown, gallery.total),
        element("div", gallery.cards, class_="cards wide", id="triplets"),
        element("p", "No triplet matches.", id="none", hidden=True),
    )


def _header(run: RunFolder, found: Figures) -> Markup:
    samples, clips, about = found["samples"], found["clips"], found["run"]
    types = samples["by_type"]
    tiles: list[tuple[str, Content]] = [
        ("cross-paired samples", number(types.get("cross", 0))),
        ("in-paired samples", number(types.get("in", 0))),
        ("clips kept", f"{number(clips['kept'])} of {number(clips['total'])}"),
        ("subjects kept", f"{number(found['subjects']['kept'])} of "
                          f"{number(found['subjects']['phrases'])}"),
        ("pairs accepted", f"{number(found['pairs']['accepted'])} of "
                           f"{number(found['pairs']['candidates'])}"),
        ("video looked at", seconds(found["sources"]["seconds_of_video"] * 1e6)),
        ("in quarantine", number(len(found["quarantine"]))),
        ("CPU time of measuring", seconds(found["cpu_seconds"]["total"] * 1e6)),
    ]  # fmt: skip
    return element(
        "header",
        element("p", "Curation of subject-to-video triplets", class_="small"),
        element("h1", about["title"] or "A run"),
        element(
            "p",
            f"Run {about['folder']}, models of the {about['profile']} profile, "
            f"s2v-datapipe {run.about.get('packages', {}).get('s2v-datapipe') or 'unknown'}, "
            f"commit {(about['git_commit'] or 'unknown')[:12]}.",
        ),
        element(
            "dl",
            *(element("div", element("dt", k), element("dd", v)) for k, v in tiles),
            class_="tiles",
        ),
        render_credits(run),
    )


def _document(title: str, header: Markup, nav: Markup, main: Markup) -> str:
    return document(
        title,
        element("a", "Skip to the content", href="#content", class_="skip"),
        bars.patterns(),
        header,
        nav,
        main,
        style=asset(__package__, "page.css"),
        script=asset(__package__, "page.js"),
        media="data:",
    )
