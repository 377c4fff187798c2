"""The calibration as a page: curves, tables, and the pairs around each bound to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from s2v.datapipe.base import atomic
from s2v.datapipe.base.markup import Content, Markup, data_uri, element, join, joined, table
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.base.pages import asset, document
from s2v.datapipe.calibrate.candidates import Candidate, Key
from s2v.datapipe.calibrate.evaluate import Calibrated, Calibration, said_by
from s2v.datapipe.calibrate.labels import DIFFERENT, NEAR_COPY, SAME
from s2v.datapipe.calibrate.pictures import Views, views
from s2v.datapipe.calibrate.propose import Region
from s2v.datapipe.calibrate.statistics import Share
from s2v.datapipe.report import bars
from s2v.datapipe.report.charts import Series, histogram, histogram_bins, legend, line_chart

_EXAMPLES: Final = 6  # pairs shown on either side of a bound
_DISPUTED: Final = 60  # disputed pairs shown
_STYLE: Final = """
.card img { max-width: 48%; max-height: 170px; }
.curves { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
"""


def write_report(made: Calibration, out: Path) -> Path:
    """Write a self-contained page; the same labels and run give the same bytes.

    Raises:
        CalibrateError: a frame of an example is missing or damaged.
    """
    near = {name: _around(one) for name, one in made.bounds.items()}
    apart = sorted(made.labels.disputed)[:_DISPUTED]
    shown = {s for groups in near.values() for _, pairs in groups for c in pairs for s in c.key}
    shown |= {name for key in apart for name in key}
    pictures = views(made.run, shown)
    parts = [
        element(
            "section",
            element("h2", f"{name}: {one.pool.bound.embedder}"),
            _tables(made, one),
            _charts(name, one),
            *(_examples(title, pairs, one, pictures) for title, pairs in near[name]),
        )
        for name, one in made.bounds.items()
    ]
    people = _people(made, apart, pictures)
    atomic.write_bytes(out, _document(made, [people, *parts, _fallen_back(made)]).encode())
    return out


def _people(made: Calibration, apart: Sequence[Key], pictures: Mapping[str, Views]) -> Markup:
    """How far several people agree, and the pairs on which they do not."""
    labels = made.labels
    if not labels.agreement:
        return Markup("")
    rows: list[list[Content]] = [
        [" and ".join(person or "somebody" for person in one.people), one.pairs,
         f"{one.share:.3f}", "–" if one.kappa is None else f"{one.kappa:.3f}"]
        for one in labels.agreement
    ]  # fmt: skip
    cards = [_card(key, said_by(labels.disputed[key]), pictures) for key in apart]
    return element(
        "section",
        element("h2", "Who labelled, and where they differ"),
        table(["people", "pairs in common", "alike", "Cohen's kappa"], rows),
        element(
            "p",
            f"{len(labels.disputed)} pairs are disputed and count as unsure"
            + (
                f"; the first {len(apart)} are shown." if len(apart) < len(labels.disputed) else "."
            ),
        ),
        element("div", *cards, class_="cards") if cards else None,
    )


def _fallen_back(made: Calibration) -> Markup:
    """Classes that have no bounds of their own."""
    if not made.fallen_back:
        return Markup("")
    lines = (element("li", f"{name}: {why}") for name, why in sorted(made.fallen_back.items()))
    return element("section", element("h2", "Classes with their bank's bounds"),
                   element("ul", *lines))  # fmt: skip


def _card(key: Key, said: str, pictures: Mapping[str, Views]) -> Markup:
    images = [element("img", src=data_uri(encode_jpeg(pictures[s].crop, 75)), alt=s) for s in key]
    return element("article", element("div", *images, class_="media"), element("p", said),
                   class_="card")  # fmt: skip


def _tables(made: Calibration, one: Calibrated) -> Markup:
    rows = [("in force", one.current)]
    if one.proposal.region is not None:
        rows.append(("proposed", one.proposal.region))
    said = made.labels.counts()
    judged = one.judged
    counts = [int(judged.same.sum()), int(judged.different.sum()), int(judged.copy.sum())]
    return join(
        element(
            "p",
            f"{one.pool.count} candidate pairs, {sum(counts)} labelled: {counts[0]} "
            f"same, {counts[1]} different, {counts[2]} near copies; {one.unsure} unsure are "
            f"not counted. All labels of the file: {sum(said.values())}.",
        ),
        table(
            ["bounds", "lower", "upper", "accepted", "precision", "wrong subjects", "copy rate",
             "recall", "near copies refused by the bounds alone"],
            [[name, r.lower, r.upper, r.precision.count, *map(said_share, _shares(r))]
             for name, r in rows],
            f"Shares of labelled pairs with their {100 * made.wanted.confidence:g} % intervals",
        ),
        table(
            ["area under the ROC curve", "value"],
            [
                ["same subject against another", said_share(one.identity_auc)],
                ["near copy against another picture", said_share(one.copying_auc)],
            ],
        ),
        element("ul", *(element("li", note) for note in one.proposal.notes)),
    )  # fmt: skip


def _shares(r: Region) -> tuple[Share, ...]:
    return r.precision, r.wrong, r.copies, r.recall, r.copies_refused


def said_share(one: Share | None) -> str:
    """``0.93 [0.85, 0.97]``, or a dash of no pairs."""
    if one is None or math.isnan(one.estimate):
        return "–"
    return f"{one.estimate:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _charts(name: str, one: Calibrated) -> Markup:
    curved, made = [], []
    curves = [("same subject", one.identity), ("near copy", one.copying)]
    known = [(title, found) for title, found in curves if found is not None]
    if known:
        names = [title for title, _ in known]
        roc = [Series(t, [0.0, *c.wrong.tolist()], [0.0, *c.found.tolist()]) for t, c in known]
        curve = [Series(t, c.found.tolist(), c.precision.tolist()) for t, c in known]
        curved = [
            line_chart(f"ROC, {name}", "Share of positives found over share of negatives that "
                       "pass, for every threshold.", roc, "wrongly passed", "found"),
            line_chart(f"Precision and recall, {name}", "Precision over recall, for every "
                       "threshold.", curve, "recall", "precision"),
        ]  # fmt: skip
        curved = [element("div", *curved, class_="curves"), legend(names)]
    region = one.proposal.region or one.current
    judged = one.judged
    marks = [("lower", region.lower), ("upper", region.upper)]
    for title, flags in (("same subject", judged.same), ("another subject", judged.different),
                         ("near copy", judged.copy)):  # fmt: skip
        free = judged.scores[flags & ~judged.guarded].tolist()
        held = judged.scores[flags & judged.guarded].tolist()
        bins = histogram_bins(free, held, [value for _, value in marks])
        if bins is not None:
            made.append(
                element(
                    "figure",
                    histogram(
                        f"{title}, {name}",
                        f"Labelled pairs by cosine: {len(free)} pass the other rules, {len(held)} "
                        "(hatched) are refused as copies by another one.",
                        bins, marks, "cosine",
                    ),
                    element("figcaption", f"{title}: {len(free)} pass the other rules, "
                            f"{len(held)} hatched do not"),
                )
            )  # fmt: skip
    return join(*curved, element("div", *made, class_="charts"))


def _around(one: Calibrated) -> list[tuple[str, list[Candidate]]]:
    """The labelled pairs nearest to each bound, from both of its sides."""
    region = one.proposal.region or one.current
    groups = []
    for title, value in (("lower", region.lower), ("upper", region.upper)):
        for side, pairs in (
            ("below", [c for c in one.judged.pairs if c.score < value]),
            ("from it upwards", [c for c in one.judged.pairs if c.score >= value]),
        ):
            near = sorted(pairs, key=lambda c: (abs(c.score - value), c.key))[:_EXAMPLES]
            groups.append((f"Around the {title} bound {value:g}: {side}", near))
    return groups


def _examples(
    title: str, pairs: Sequence[Candidate], one: Calibrated, pictures: Mapping[str, Views]
) -> Markup:
    said = {
        c.key: SAME if same else NEAR_COPY if copied else DIFFERENT
        for c, same, copied in zip(one.judged.pairs, one.judged.same, one.judged.copy, strict=True)
    }
    cards = []
    for c in pairs:
        guards = f"; refused too by {', '.join(c.guards)}" if c.guards else ""
        cards.append(_card(c.key, f"{said[c.key]}, {c.score:.3f}{guards}", pictures))
    body = element("div", *cards, class_="cards") if cards else element("p", "No labelled pair.")
    return join(element("h3", title), body)


def _contradictions(made: Calibration) -> Markup | None:
    said = made.as_dict()["contradictions"]
    if not said:
        return None
    return join(
        element("p", f"{len(said)} labels contradict others; look at them again:"),
        element("ul", *(element("li", line) for line in said)),
    )


def _document(made: Calibration, parts: Sequence[Markup]) -> str:
    w = made.wanted
    return document(
        "Calibration",
        bars.patterns(),
        element(
            "header",
            element("h1", f"Bounds of {made.run.folder.name}"),
            element(
                "p",
                f"Wanted: precision {w.precision:g}, copy rate {w.copy_rate:g}. Shares are "
                "weighted by stratum; intervals count pairs that share a clip as dependent.",
            ),
        ),
        element("main", _contradictions(made), joined(parts)),
        style=asset("s2v.datapipe.report", "page.css") + _STYLE,
    )
