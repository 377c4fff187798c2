"""Histograms of every score with the thresholds that were applied to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from s2v.datapipe.base.markup import Markup, element, join, joined, table
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.pair.settings import BANKS
from s2v.datapipe.report import charts
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.wording import BANK_TEXT, listed, number, short

Bounds = Sequence[tuple[str, float | None]]


@dataclass(frozen=True)
class Scores:
    """One score of many rows.

    Attributes:
        title: what is measured, of what.
        unit: of the horizontal axis.
        kept, dropped: values of rows that go on, and of rows dropped by any rule.
        bounds: ``(name, value)`` of the thresholds; ``None`` for one switched off.
        unmeasured: rows without a value.
    """

    title: str
    unit: str
    kept: list[float]
    dropped: list[float]
    bounds: Bounds = ()
    unmeasured: int = 0


def score_groups(run: RunFolder) -> list[tuple[str, list[Scores]]]:
    """All scores of a run under the heading of what they are scores of."""
    return [
        ("Clips", list(_clips(run))),
        ("Subjects", list(_subjects(run))),
        ("Candidate pairs", list(_pairs(run))),
    ]


def render_scores(scores: Scores) -> Markup | None:
    """A figure with chart and table; ``None`` where nothing was measured."""
    bounds = [(name, value) for name, value in scores.bounds if value is not None]
    bins = charts.histogram_bins(scores.kept, scores.dropped, [value for _, value in bounds])
    if bins is None:
        return None
    limits = ", ".join(f"{name} {short(value)}" for name, value in bounds) or "no threshold"
    said = (
        f"{len(scores.kept)} kept, {len(scores.dropped)} dropped, thresholds: {limits}."
        f" From {short(min(scores.kept + scores.dropped))}"
        f" to {short(max(scores.kept + scores.dropped))} {scores.unit}."
    )
    about = f"kept {number(len(scores.kept))}, dropped {number(len(scores.dropped))}"
    if scores.unmeasured:
        about += f", not measured {number(scores.unmeasured)}"
    rows = [
        (f"{short(low)} to {short(high)}", kept, dropped)
        for low, high, kept, dropped in zip(
            bins.edges, bins.edges[1:], bins.kept, bins.dropped, strict=False
        )
        if kept or dropped
    ]
    beyond = f"The last column holds {number(bins.beyond)} beyond the axis."
    columns = (scores.unit, "kept", "dropped")
    return element(
        "figure",
        element("figcaption", scores.title, element("span", about, class_="small")),
        charts.histogram(scores.title, said, bins, bounds, scores.unit),
        element("p", beyond, class_="note") if bins.beyond else None,
        element("details", element("summary", "Figures"), table(columns, rows, scores.title)),
    )


def render_histograms(run: RunFolder) -> Markup:
    """The section: groups of figures, with what the colours mean."""
    key = element(
        "p",
        element("span", class_="swatch kept"),
        " goes on  ",
        element("span", class_="swatch dropped"),
        " dropped, by this rule or any other  ",
        element("span", class_="swatch threshold"),
        " threshold",
        class_="key",
    )
    groups = []
    for heading, group in score_groups(run):
        figures = [made for made in map(render_scores, group) if made is not None]
        if figures:
            groups.append(join(element("h3", heading), element("div", *figures, class_="charts")))
    return join(key, joined(groups)) if groups else element("p", "Nothing was measured.")


def _split(rows: Iterable[tuple[float | None, bool]]) -> tuple[list[float], list[float], int]:
    kept: list[float] = []
    dropped: list[float] = []
    missing = 0
    for value, goes_on in rows:
        if value is None:
            missing += 1
        else:
            (kept if goes_on else dropped).append(float(value))
    return kept, dropped, missing


def _scores(
    title: str, unit: str, rows: Iterable[tuple[float | None, bool]], bounds: Bounds = ()
) -> Scores:
    kept, dropped, missing = _split(rows)
    return Scores(title, unit, kept, dropped, bounds, missing)


#: Scores of clips: title, unit, table, column, and the rules that bound it from below and above.
CLIP_SCORES: Final = (
    ("Motion", "frame heights per second", "clips", "motion", "min_motion", "max_motion"),
    ("Motion, its peak", "frame heights per second", "clips", "motion_peak", "", "max_motion_peak"),
    ("Brightness", "mean luma, 0 to 1", "clips", "luma", "min_luma", "max_luma"),
    ("Contrast", "deviation of luma, 0 to 1", "clips", "luma_std", "min_contrast", ""),
    ("Repeated frames", "share", "clips", "freeze", "", "max_freeze"),
    ("Black frames", "share", "clips", "black", "", "max_black"),
    ("Overlaid text", "share of the frame", "quality", "text_share", "", "max_text_share"),
    ("Watermarks", "share of the frame", "quality", "watermark_share", "", "max_watermark_share"),
    ("Sharpness", "variance of the Laplacian", "quality", "blur", "min_blur", ""),
    ("Blockiness", "excess on the 8-pixel grid", "quality", "blockiness", "", "max_blockiness"),
    ("Crushed pixels", "share", "quality", "exposure_low", "", "max_exposure_low"),
    ("Blown pixels", "share", "quality", "exposure_high", "", "max_exposure_high"),
    ("Saturation", "0 to 1", "quality", "saturation", "min_saturation", "max_saturation"),
    ("Naturalness (NIQE)", "lower is better", "quality", "niqe", "", "max_niqe"),
    ("Not safe for work", "score", "quality", "nsfw", "", "max_nsfw"),
    ("Aesthetics", "score", "quality", "aesthetic", "min_aesthetic", ""),
    ("Part of the frame used", "share", "overlays", "crop_kept", "", ""),
)


def _clips(run: RunFolder) -> Iterator[Scores]:
    rules = run.settings.clip
    clips = [row for row in run.rows("clips") if row["kind"] == "video"]
    goes_on = {row["clip_id"]: run.clip_reasons.get(row["clip_id"]) is None for row in clips}
    lengths = [((r["end_us"] - r["start_us"]) / 1e6, goes_on[r["clip_id"]]) for r in clips]
    yield _scores(
        "Length", "seconds", lengths, [("min", rules.min_seconds), ("max", rules.max_seconds)]
    )
    for title, unit, name, column, lower, upper in CLIP_SCORES:
        found = {row["clip_id"]: row[column] for row in run.rows(name)}
        values = [(found.get(clip), kept) for clip, kept in goes_on.items()]
        named = [("min", lower), ("max", upper)]
        bounds = [(word, getattr(rules, rule, None)) for word, rule in named if rule]
        yield _scores(title, unit, values, bounds)


def _subjects(run: RunFolder) -> Iterator[Scores]:
    boxes, masks, faces = run.settings.detection, run.settings.mask, run.settings.face
    detections, masked = run.rows("detections"), run.rows("masks")
    usable = {key: reason is None for key, reason in run.box_reasons.items()}

    def of(rows: list[Row], column: str) -> list[tuple[float | None, bool]]:
        return [(row[column], usable.get(row["detection_id"], False)) for row in rows]

    yield _scores("Detector", "score", of(detections, "score"), [("min", boxes.min_score)])
    yield _scores(
        "Box", "share of the frame", of(detections, "area_share"),
        [("min", boxes.min_area_share), ("max", boxes.max_area_share)],
    )  # fmt: skip
    yield _scores(
        "Mask", "share of the frame", of(masked, "area_share"), [("min", masks.min_area_share)]
    )
    yield _scores(
        "Mask in its box", "share of the box", of(masked, "box_fill"),
        [("min", masks.min_box_fill), ("max", masks.max_box_fill)],
    )  # fmt: skip
    yield _scores("Face detector", "score", of(run.rows("faces"), "score"), [
        ("min", faces.min_score)
    ])  # fmt: skip


def _pairs(run: RunFolder) -> Iterator[Scores]:
    rules, faces = run.settings.pair, run.settings.face
    pairs = run.rows("pairs")
    for bank in BANKS:
        mine = [row for row in pairs if row["bank"] == bank]
        own = rules.of(bank)
        yield _scores(
            f"Similarity of {BANK_TEXT[bank]}", "cosine of the subjects",
            _column(mine, "similarity"), [("lower", own.lower), ("upper", own.upper)],
        )  # fmt: skip
    persons = [row for row in pairs if row["bank"] == "person"]
    yield _scores(
        "Similarity of faces", "cosine of the faces", _column(persons, "face_similarity"),
        [("different", faces.different), ("lower", faces.lower), ("upper", faces.upper)],
    )  # fmt: skip
    limits: dict[float | None, list[str]] = {}
    for bank in BANKS:
        limits.setdefault(rules.of(bank).max_background, []).append(BANK_TEXT[bank])
    # One line where all banks agree, and one each where they do not.
    named = [("max" if len(limits) == 1 else listed(who), limit) for limit, who in limits.items()]
    yield _scores(
        "Similarity of backgrounds", "cosine of the frames without their subjects",
        _column(pairs, "background_similarity"), named,
    )  # fmt: skip
    yield _scores(
        "Difference of crops", "bits of 64, perceptual hash", _column(pairs, "phash_distance"),
        [("more than", rules.crop_bits)],
    )  # fmt: skip
    yield _scores(
        "Difference of nearest frames", "bits of 64, perceptual hash",
        _column(pairs, "frame_phash_distance"), [("more than", rules.frame_bits)],
    )  # fmt: skip
    yield _scores(
        "Time between the clips", "seconds",
        [(None if r["gap_us"] is None else r["gap_us"] / 1e6, r["accepted"]) for r in pairs],
        [("min", rules.min_gap_seconds)],
    )  # fmt: skip


def _column(rows: list[Row], name: str) -> list[tuple[float | None, bool]]:
    return [(row[name], row["accepted"]) for row in rows]
