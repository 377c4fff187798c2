"""Pairs that were refused, side by side, with the rule: near copies, and other subjects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.phash import hamming
from s2v.datapipe.pair.detections import source_scale
from s2v.datapipe.pair.evidence import RULES
from s2v.datapipe.pair.rows import Row, group
from s2v.datapipe.report import media
from s2v.datapipe.report.gallery import pair_chips
from s2v.datapipe.report.markup import Markup, element, join
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.sections import Media, picture
from s2v.datapipe.report.wording import RULE_TEXT, moment
from s2v.datapipe.write.errors import WriteError

NEAR_COPY: Final = (
    "duplicate_clip",
    "near_copy_frame",
    "near_copy_crop",
    "near_copy_face",
    "above_upper",
    "face_too_similar",
    "background_too_similar",
    "same_source_frame",
)
OTHER_SUBJECT: Final = (
    "face_mismatch",
    "below_lower",
    "identity_conflict",
    "noun_mismatch",
    "verifier_same_identity",
)


@dataclass(frozen=True)
class Refusals:
    """Cards of refused pairs, and how many there are.

    Attributes:
        cards: HTML of each card shown.
        total: refused pairs of this kind.
    """

    cards: list[Markup]
    total: int


def make_refusals(
    run: RunFolder, rules: Iterable[str], most: int, fits: Callable[[int], bool]
) -> Refusals:
    """Cards of pairs that fail one of ``rules``, the rules by turns.

    Args:
        run: the run.
        rules: names of :data:`s2v.datapipe.pair.evidence.RULES`.
        most: cards at most.
        fits: asked with the bytes of a card; ``False`` ends it.
    """
    wanted = list(rules)
    refused = [row for row in run.rows("pairs") if set(row["rules"]) & set(wanted)]
    maker = _Maker(run)
    cards: list[Markup] = []
    for pair in _by_turns(run, refused, wanted)[:most]:
        card = maker.card(pair)
        if not fits(len(card.encode())):
            break
        cards.append(card)
    return Refusals(cards, len(refused))


def _by_turns(run: RunFolder, refused: list[Row], rules: list[str]) -> list[Row]:
    """One of each rule in turn; each two clips once, other files before the same file.

    Within a rule the nearest misses come first: the most alike.
    """
    video = {row["clip_id"]: row["video_id"] for row in run.rows("clips")}

    def order(row: Row) -> tuple[bool, float, str, str]:
        a, b = row["target_clip_id"], row["reference_clip_id"]
        return (video[a] == video[b], -row["similarity"], *_ends(row))

    queues: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(refused, key=order):
        queues[next(rule for rule in rules if rule in row["rules"])].append(row)
    ordered: list[Row] = []
    seen: set[tuple[str, str]] = set()
    for turn in range(max(map(len, queues.values()), default=0)):
        for rule in rules:
            if turn < len(queues[rule]):
                row = queues[rule][turn]
                first, second = sorted((row["target_clip_id"], row["reference_clip_id"]))
                if (first, second) not in seen:
                    seen.add((first, second))
                    ordered.append(row)
    return ordered


def _ends(row: Row) -> tuple[str, str]:
    return str(row["target_subject_id"]), str(row["reference_subject_id"])


class _Maker:
    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.subjects = run.by("subjects", "subject_id")
        self.frames = run.by("frames", "frame_id")
        self.frames_of = group(run.rows("frames"), "clip_id")
        self.detections = group(run.rows("detections"), "subject_id")

    def card(self, pair: Row) -> Markup:
        """Two frames, the rules that the pair fails, and its scores."""
        subjects = [self.subjects[key] for key in _ends(pair)]
        frames = self._frames(pair, subjects)
        order = {rule: n for n, rule in enumerate(RULES)}
        failed = sorted(pair["rules"], key=order.__getitem__)
        return element(
            "article",
            element(
                "div",
                *(
                    self._figure(subject, frame, n)
                    for n, (subject, frame) in enumerate(zip(subjects, frames, strict=True))
                ),
                class_="media",
            ),
            element(
                "ul",
                *(element("li", RULE_TEXT[rule], class_="rule", title=rule) for rule in failed),
                class_="rules",
            ),
            element("ul", *pair_chips(self.run, pair), class_="chips"),
            class_="card",
        )

    def _frames(self, pair: Row, subjects: list[Row]) -> list[Row | None]:
        """The nearest frames where frames are the reason, else those of the best boxes."""
        if not {"near_copy_frame", "duplicate_clip"} & set(pair["rules"]):
            return [self.frames.get(subject["frame_id"]) for subject in subjects]
        a, b = (
            [f for f in self.frames_of.get(subject["clip_id"], []) if f["phash"]]
            for subject in subjects
        )
        found = [
            (hamming(x["phash"], y["phash"]), x["pts_us"], y["pts_us"], x, y) for x in a for y in b
        ]
        nearest = min(found, key=lambda pair: pair[:3], default=None)
        return list(nearest[3:]) if nearest else [None, None]

    def _figure(self, subject: Row, frame: Row | None, n: int) -> Markup:
        where = subject["video_id"]
        said = f"{('Target', 'Refused reference')[n]}: {subject['phrase']}, {where}"
        if frame is None:
            return element("p", f"{said}: no frame was stored")
        try:
            image = self.run.frames.image(frame)
        except (WriteError, MediaError) as error:
            return element("p", f"{said}: {error}")
        at = "" if subject["kind"] == "image" else f" at {moment(frame['pts_us'])}"
        overlay = self._box(subject, frame)
        return picture(
            Media(media.thumbnail(image, 260, 160), alt=said + at, label=f"{where}{at}"), overlay
        )

    def _box(self, subject: Row, frame: Row) -> Markup | None:
        found = [
            row
            for row in self.detections.get(subject["subject_id"], [])
            if row["frame_id"] == frame["frame_id"]
        ]
        if not found:
            return None
        best = min(found, key=lambda row: (-(row["score"] or 0), row["detection_id"]))
        width, height = frame["width"], frame["height"]
        scale = source_scale(best["box"], best["area_share"], width, height)
        box = tuple(value * scale for value in best["box"])
        return media.box_overlay(box, width, height)


def render_refusals(found: Refusals, none: str) -> Markup:
    """The cards, and how many of how many they are."""
    if not found.total:
        return element("p", none)
    return join(
        element("p", f"{len(found.cards)} of {found.total} refused pairs, each two clips once."),
        element("div", *found.cards, class_="cards"),
    )
