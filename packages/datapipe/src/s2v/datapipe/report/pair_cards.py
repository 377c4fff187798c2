"""A candidate pair as a card: two frames, its scores, what was held against it, and who said so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from s2v.datapipe.base.markup import Markup, element
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.phash import hamming
from s2v.datapipe.pair.detections import source_scale
from s2v.datapipe.pair.evidence import ANSWERS, RULES
from s2v.datapipe.pair.rows import Row, group
from s2v.datapipe.report import media
from s2v.datapipe.report.gallery import chip, pair_chips
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.sections import Media, picture
from s2v.datapipe.report.wording import RULE_TEXT, moment
from s2v.datapipe.write.errors import WriteError

#: What the verifier is asked, as a reader is told.
ANSWER_TEXT: Final = dict(zip(ANSWERS, ("the same subject", "another scene"), strict=True))
_THUMB: Final = (260, 160)  # pixels at most, width and height


def ends(pair: Row) -> tuple[str, str]:
    """Target and reference of a pair."""
    return str(pair["target_subject_id"]), str(pair["reference_subject_id"])


class PairCards:
    """Makes the cards of a run's pairs.

    Args:
        run: the run.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.subjects = run.by("subjects", "subject_id")
        self.frames = run.by("frames", "frame_id")
        self.frames_of = group(run.rows("frames"), "clip_id")
        self.detections = group(run.rows("detections"), "subject_id")
        self.verdicts = {
            frozenset((row["target_detection_id"], row["reference_detection_id"])): row
            for row in run.rows("verdicts")
        }

    def cards(
        self, pairs: Iterable[Row], fits: Callable[[int], bool], heading: bool = False
    ) -> list[Markup]:
        """Cards of pairs, in their order, until the page is full.

        Args:
            pairs: rows of table PAIRS.
            fits: asked with the bytes of a card; ``False`` ends it.
            heading: head each with the class of its target.
        """
        made: list[Markup] = []
        for pair in pairs:
            card = self.card(pair, heading)
            if not fits(len(card.encode())):
                break
            made.append(card)
        return made

    def card(self, pair: Row, heading: bool = False) -> Markup:
        """Two frames, the rules that the pair fails, its scores and what the verifier said."""
        subjects = [self.subjects[key] for key in ends(pair)]
        frames = self._frames(pair, subjects)
        order = {rule: n for n, rule in enumerate(RULES)}
        failed = sorted(pair["rules"], key=order.__getitem__)
        names = ("Target", "Reference" if pair["accepted"] else "Refused reference")
        figures = [
            self._figure(*one) for one in zip(names, subjects, frames, strict=True)
        ]  # fmt: skip
        reasons = (element("li", RULE_TEXT[rule], class_="rule", title=rule) for rule in failed)
        title = (subjects[0]["class"] or subjects[0]["bank"]).replace("_", " ")
        return element(
            "article",
            element("h4", title) if heading else None,
            element("div", *figures, class_="media"),
            element("ul", *reasons, class_="rules") if failed else None,
            element("ul", *pair_chips(self.run, pair), class_="chips"),
            self._verdict(pair, subjects),
            class_="card",
        )

    def _verdict(self, pair: Row, subjects: list[Row]) -> Markup | None:
        """The two answers, and the model's reason in its own words."""
        if all(pair[name] is None for name in ANSWERS):
            return None
        said = [
            chip(ANSWER_TEXT[name], pair[name] or "no answer", ok=pair[name] == "yes")
            for name in ANSWERS
        ]
        row = self.verdicts.get(frozenset(one["detection_id"] for one in subjects))
        return element(
            "div",
            element("p", "Verifier", class_="small"),
            element("ul", *said, class_="chips"),
            element("blockquote", row["note"]) if row and row["note"] else None,
            element("p", f"{row['verifier']}, {row['prompt']}", class_="small") if row else None,
            class_="verdict",
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

    def _figure(self, name: str, subject: Row, frame: Row | None) -> Markup:
        where = subject["video_id"]
        said = f"{name}: {subject['phrase']}, {where}"
        if frame is None:
            return element("p", f"{said}: no frame was stored")
        try:
            image = self.run.frames.image(frame)
        except (WriteError, MediaError) as error:
            return element("p", f"{said}: {error}")
        at = "" if subject["kind"] == "image" else f" at {moment(frame['pts_us'])}"
        shown = Media(media.thumbnail(image, *_THUMB), alt=said + at, label=f"{where}{at}")
        return picture(shown, self._box(subject, frame))

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
