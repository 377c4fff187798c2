"""The gallery of triplets: references, the target clip playing, the caption with its phrases.

What is shown is read back from the shards, so it is what a trainer will read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s2v.datapipe.base import ids
from s2v.datapipe.base.markup import Content, Markup, element, join, joined
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.images import decode_png_mask, load_image
from s2v.datapipe.base.shards import Reference, Sample, SampleMeta, ShardError
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.report import bars, media
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.sections import MARKS, Media, marked, picture
from s2v.datapipe.report.wording import moment, number, seconds

PAIR_TEXT: Final = {
    "in": "in-paired: the reference is cut from the clip itself",
    "cross": "cross-paired: the reference is the same subject somewhere else",
    "image": "image: a photograph as target",
    "t2v": "without reference",
}
_ORDER: Final = ("cross", "image", "in", "t2v")


@dataclass(frozen=True)
class Gallery:
    """Cards that fit, in the order of the page.

    Attributes:
        cards: HTML of the cards.
        shown: index rows of the samples shown.
        total: samples in the shards.
    """

    cards: Markup
    shown: list[Row]
    total: int


def make_gallery(
    run: RunFolder,
    previews: Path,
    most: int,
    fits: Callable[[int], bool],
    step: Callable[..., None] = lambda n=1: None,
) -> Gallery:
    """Make cards, the most telling first, until there are enough or the page is full.

    Args:
        run: the run.
        previews: folder for small clips, kept between calls.
        most: cards at most.
        fits: asked with the bytes of a card; ``False`` ends the gallery.
        step: told of each card.
    """
    samples = list(run.shards) if run.shards else []
    pairs = {(r["target_subject_id"], r["reference_subject_id"]): r for r in run.rows("pairs")}
    made: list[tuple[Sample, Markup]] = []
    for sample in by_priority(samples)[:most]:
        card = _Card(run, sample, pairs).render(previews)
        if not fits(len(card.encode())):
            break
        made.append((sample, card))
        step()
    made.sort(key=lambda item: _place(item[0]))
    return Gallery(joined(c for _, c in made), [s.row for s, _ in made], len(samples))


def _place(sample: Sample) -> tuple[int, str, str, str]:
    row = sample.row
    return _ORDER.index(row["pair_type"]), row["scenario"], row["clip_id"], sample.id


def by_priority(samples: list[Sample]) -> list[Sample]:
    """An order whose every beginning shows the variety of the whole.

    Rounds over (pair type, scenario, source): two cross pairs, then one of each other kind.
    Inside a stratum the order is a hash of the id: spread, and the same every time.
    """
    strata: dict[tuple[int, str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        row = sample.row
        key = (_ORDER.index(row["pair_type"]), row["scenario"], row["video_id"])
        strata[key].append(sample)
    queues = [
        (2 if key[0] == 0 else 1, sorted(strata[key], key=lambda s: ids.stable_hash([s.id])))
        for key in sorted(strata)
    ]
    ordered: list[Sample] = []
    while any(queue for _, queue in queues):
        for turns, queue in queues:
            ordered += [queue.pop() for _ in range(min(turns, len(queue)))]
    return ordered


@dataclass(frozen=True)
class _Card:
    run: RunFolder
    sample: Sample
    pairs: dict[tuple[str, str], Row]

    def render(self, previews: Path) -> Markup:
        try:
            meta = self.sample.meta()
            figures = [self._reference(n, ref) for n, ref in enumerate(meta.refs)]
            clip = self._clip(meta, previews)
        except (ShardError, MediaError) as error:
            return self._article(element("p", str(error), class_="health bad"))
        spans = [(*ref.span, n) for n, ref in enumerate(meta.refs)]
        return self._article(
            self._head(meta),
            element(
                "div",
                element("div", *figures, class_="refs"),
                element("span", "→", class_="arrow", aria_hidden="true"),
                clip,
                class_="media",
            ),
            element("p", marked(meta.caption, spans), class_="caption"),
            *(self._scores(n, ref, meta) for n, ref in enumerate(meta.refs)),
            self._origin(meta),
        )

    def _article(self, *content: Content) -> Markup:
        row = self.sample.row
        return element(
            "article",
            *content,
            class_="card sample",
            id=f"sample-{self.sample.id}",
            data_pair=row["pair_type"],
            data_scenario=row["scenario"],
            data_source=row["long_video_id"],
        )

    def _head(self, meta: SampleMeta) -> Markup:
        split = "held-out scene" if meta.heldout else meta.split
        return element(
            "h3",
            element(
                "span",
                meta.pair_type,
                class_=f"badge {meta.pair_type}",
                title=PAIR_TEXT[meta.pair_type],
            ),
            " ",
            meta.scenario.replace("-", " "),
            element("span", split, class_="small"),
        )

    def _reference(self, n: int, ref: Reference) -> Markup:
        image = load_image(self.sample.read(f"ref{n}.jpg"))
        mask = decode_png_mask(self.sample.read(f"ref{n}.mask.png"))
        origin = ref.from_
        where = f"{origin.source} at {moment(origin.pts_us)}"
        return picture(
            Media(
                media.thumbnail(image),
                alt=f"Reference {n + 1}: {ref.phrase}, from {where}",
                label=where,
                mark=n,
            ),
            media.outline(mask),
        )

    def _clip(self, meta: SampleMeta, previews: Path) -> Markup:
        member = next(m for m in self.sample.row["members"] if m["suffix"] == "mp4")
        small = media.preview(lambda: self.sample.read("mp4"), member["sha256"], previews)
        source = meta.source
        span = f"{moment(source.start_us)} to {moment(source.end_us)}"
        return picture(
            Media(
                small.mp4,
                alt=f"Target clip: {meta.caption}",
                label=f"{source.video_id} from {span}",
                poster=small.poster,
            )
        )

    def _scores(self, n: int, ref: Reference, meta: SampleMeta) -> Markup:
        chips: list[Markup] = []
        if meta.pair_type == "in":
            boxes = self.run.settings.detection
            gap = abs(ref.from_.pts_us - (meta.source.start_us + meta.source.end_us) // 2)
            chips.append(chip("", f"{seconds(gap)} from the clip's middle"))
            if ref.scores.detector is not None:
                chips.append(chip("detector", ref.scores.detector, boxes.min_score, None))
            if ref.scores.area_share is not None:
                bounds = (boxes.min_area_share, boxes.max_area_share)
                chips.append(chip("share of its frame", ref.scores.area_share, *bounds))
        else:
            chips += self._pair_chips(n, ref)
        return element(
            "div",
            element("b", n + 1, class_="number"),
            element("ul", *chips, class_="chips"),
            class_=f"scores m{n % MARKS}",
        )

    def _pair_chips(self, n: int, ref: Reference) -> Iterator[Markup]:
        sample = self.run.by("samples", "sample_id").get(self.sample.id)
        if sample is None or n >= len(sample["references"]):
            yield chip("scores", "not in this selection any more")
            return
        chosen = sample["references"][n]
        pair = self.pairs.get((chosen["subject_id"], chosen["reference_subject_id"]))
        if pair is not None:
            yield from pair_chips(self.run, pair)

    def _origin(self, meta: SampleMeta) -> Markup:
        source, video = meta.source, meta.video
        facts = (
            f"{number(video.frames / video.fps if video.fps else None, 1)} s, "
            f"{video.width}×{video.height}, {video.fps:g} frames a second"
        )
        licences = {source.licence, *(ref.from_.licence for ref in meta.refs)} - {None}
        return element(
            "p",
            facts,
            element("br"),
            "Licence: " + ("; ".join(sorted(map(str, licences))) or "not stated"),
            f". {source.credit}" if source.credit else None,
            element("br"),
            element("code", self.sample.id),
            " in ",
            element("code", self.sample.row["shard"]),
            class_="origin",
        )


def pair_chips(run: RunFolder, pair: Row) -> Iterator[Markup]:
    """Scores of a candidate pair beside the bounds of its bank."""
    rules, faces = run.settings.pair, run.settings.face
    own = rules.of(pair["bank"])
    yield chip("subject", pair["similarity"], own.lower, own.upper)
    if pair["face_similarity"] is not None:
        yield chip("face", pair["face_similarity"], faces.lower, faces.upper)
    if pair["background_similarity"] is not None:
        yield chip("background", pair["background_similarity"], None, own.max_background)
    for name, column, bits in (
        ("crops", "phash_distance", rules.crop_bits),
        ("frames", "frame_phash_distance", rules.frame_bits),
    ):
        if pair[column] is not None:
            differs = f"{pair[column]} bits apart"
            yield chip(name, differs, ok=pair[column] > bits, rule=f"> {bits}")
    if pair["gap_us"] is not None:
        least = rules.min_gap_seconds
        ok = pair["gap_us"] >= least * 1e6
        yield chip("", f"{seconds(pair['gap_us'])} apart", ok=ok, rule=f"≥ {least:g} s")


def chip(
    name: str,
    value: float | str,
    lower: float | None = None,
    upper: float | None = None,
    *,
    ok: bool | None = None,
    rule: str | None = None,
) -> Markup:
    """A score with its bounds and, when it fails them, a word that says so."""
    shown: Content = value
    gauge = None
    if isinstance(value, float):
        ok = (lower is None or value >= lower) and (upper is None or value < upper)
        low, high = (None if bound is None else f"{bound:g}" for bound in (lower, upper))
        if low and high:
            rule = f"{low} to {high}"
        else:
            rule = f"≥ {low}" if low else f"< {high}" if high else None
        shown = f"{value:.2f}"
        gauge = bars.gauge(value, lower, upper, (0.0, 1.0))
    return element(
        "li",
        f"{name} " if name else None,
        element("b", shown),
        gauge,
        element("span", f" {rule}", class_="small") if rule else None,
        element("em", " fails") if ok is False else None,
        class_="bad" if ok is False else None,
    )


def render_filters(shown: list[Row], total: int) -> Markup:
    """Selects that the script shows and serves; without script all cards are there."""
    groups: tuple[tuple[str, str, list[str]], ...] = tuple(
        (title, key, sorted({str(row[column]) for row in shown}))
        for title, key, column in (
            ("Pair type", "pair", "pair_type"),
            ("Scenario", "scenario", "scenario"),
            ("Source", "source", "long_video_id"),
        )
    )
    controls = [
        element(
            "label",
            title,
            " ",
            element(
                "select",
                element("option", "all", value=""),
                *(element("option", value, value=value) for value in values),
                name=key,
            ),
        )
        for title, key, values in groups
    ]
    return join(
        element("p", _said(len(shown), total)),
        element(
            "form",
            *controls,
            element("label", element("input", type="checkbox", id="masks"), " outlines of masks"),
            element("button", "Show all", type="reset"),
            element("button", "Pause clips", type="button", id="motion", aria_pressed="false"),
            element("output", f"{len(shown)} shown", id="count", aria_live="polite"),
            id="filter",
            hidden=True,
            aria_label="Filter the triplets",
        ),
    )


def _said(shown: int, total: int) -> str:
    if shown == total:
        return f"All {total} samples of the shards. A clip shows its first four seconds."
    return (
        f"{shown} of {total} samples of the shards, spread over pair types, scenarios and "
        "sources. A clip shows its first four seconds."
    )
