"""Two questions to each pair: is it a near copy, and is it another subject?

An answer is ``yes``, ``no``, ``unsure`` or ``no judge``. Where no judge exists that selection did
not use, none is made up: ``no judge`` pairs are a person's to label.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar

import numpy as np

from s2v.datapipe.audit.copies import Fit, Picture, fit
from s2v.datapipe.audit.faces import dlib_or_why_not, face_in
from s2v.datapipe.audit.pairs import Pair, View
from s2v.datapipe.audit.settings import AuditSettings, FaceRules
from s2v.datapipe.base.embedded.dlib_faces import DlibFaces
from s2v.datapipe.base.embedded.net import Vectors
from s2v.datapipe.base.media.boxes import crop
from s2v.datapipe.measure.frames import FrameReader
from s2v.datapipe.pair.rows import group
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.roles import Image

Answer = Literal["yes", "no", "unsure", "no judge"]
Fault = Literal["copy", "wrong"]
FAULTS: Final[tuple[Fault, ...]] = ("wrong", "copy")

MARGIN: Final = 0.1  # of the box, around a crop
KEPT: Final = 64  # prepared pictures held in memory; a pair needs at most eight
NO_JUDGE: Final = {
    "animation": "no judge: no network but selection's own tells drawn characters apart; label it",
    "thing": "no judge: no network but selection's own tells one thing from another; label it",
    "creature": "no judge: no network but selection's own tells one animal from another; label it",
    "no face": "no judge: no face is seen in both; label it",
}

V = TypeVar("V")


@dataclass(frozen=True)
class Finding:
    """One judge's answer on one pair.

    Attributes:
        answer: ``yes`` means that the fault is there.
        why: in words, with the figures.
        score: larger is worse; for the order of the sheet, among equal answers.
    """

    answer: Answer
    why: str
    score: float = 0.0


@dataclass(frozen=True)
class Judged:
    """A pair and what the judges say of it."""

    pair: Pair
    findings: dict[Fault, Finding]
    figures: dict[str, float | int | bool | None] = field(default_factory=dict)


class Judges:
    """Looks at pairs of one run.

    Args:
        run: the run.
        settings: thresholds.
    """

    def __init__(self, run: RunFolder, settings: AuditSettings) -> None:
        self._settings = settings
        self._frames = FrameReader(run.folder)
        self._faces = group(run.rows("faces"), "frame_id")
        self._pictures: _Kept[Picture] = _Kept(KEPT)
        self._vectors: _Kept[Vectors | None] = _Kept(KEPT)
        self.faces: DlibFaces | str = dlib_or_why_not()

    @property
    def ids(self) -> dict[str, str]:
        """Which judge answers which question, and what is missing."""
        faces = self.faces
        return {
            "copy": "SIFT, RANSAC and correlation (crop and frame)",
            "wrong, faces": f"none: {faces}" if isinstance(faces, str) else faces.model_id,
            "wrong, all others": "none: selection's embedder has no independent rival; label",
        }

    def judge(self, pair: Pair) -> Judged:
        """Both questions on one pair.

        Raises:
            StoreError: a stored frame is missing or damaged.
        """
        copy, seen = self._copy(pair)
        wrong, distance = self._wrong(pair)
        return Judged(pair, {"copy": copy, "wrong": wrong}, {**seen, "face_distance": distance})

    def image(self, view: View) -> Image:
        """The stored frame of a view, RGB uint8 ``[H, W, 3]``."""
        return self._frames.image(view.frame)

    def _copy(self, pair: Pair) -> tuple[Finding, dict[str, float | int | bool | None]]:
        rules = self._settings.copy_rules
        reference = pair.reference.views[0]
        best: dict[str, Fit] = {}
        points: dict[str, int] = {}
        for form, cut in (("crop", True), ("frame", False)):
            other = self._picture(reference, cut=cut)
            mine = [self._picture(view, cut=cut) for view in pair.target.views]
            best[form] = max((fit(one, other) for one in mine), key=_closeness)
            points[form] = min(len(other.points), max(len(one.points) for one in mine))
        figures: dict[str, float | int | bool | None] = {}
        for form, found in best.items():
            figures |= {
                f"{form}_matches": found.matches,
                f"{form}_correlation": found.correlation,
                f"{form}_mirrored": found.mirrored,
            }
        return _copy_finding(best, points, rules.matches, rules.correlation, rules.min_points), (
            figures
        )

    def _wrong(self, pair: Pair) -> tuple[Finding, float | None]:
        why = self._no_judge(pair)
        if why is not None:
            return Finding("no judge", why), None
        theirs = self._vector(pair.reference.views[0])
        mine = [v for v in (self._vector(view) for view in pair.target.views) if v is not None]
        if theirs is None or not mine:
            return Finding("no judge", NO_JUDGE["no face"]), None
        # The median: one blurred frame of a clip does not make it another person.
        distance = round(float(np.median([np.linalg.norm(one - theirs) for one in mine])), 4)
        return _face_finding(distance, self._settings.face), distance

    def _no_judge(self, pair: Pair) -> str | None:
        """Why nobody can say who it is, before any picture is looked at."""
        bank = pair.target.subject["bank"]
        if bank != "person":
            return NO_JUDGE.get(bank, NO_JUDGE["thing"])
        if "animation" in (pair.target.origin, pair.reference.origin):
            return NO_JUDGE["animation"]
        return f"no judge: {self.faces}" if isinstance(self.faces, str) else None

    def _picture(self, view: View, *, cut: bool) -> Picture:
        def make() -> Picture:
            image = self.image(view)
            return Picture(crop(image, view.box, MARGIN)[0] if cut else image)

        key = view.detection_id if cut else view.frame["frame_id"]
        return self._pictures.get(f"{cut} {key}", make)

    def _vector(self, view: View) -> Vectors | None:
        def make() -> Vectors | None:
            face = face_in(self._faces.get(view.frame["frame_id"], []), view.box)
            if face is None or isinstance(self.faces, str):
                return None
            return self.faces.embed(self.image(view), face["box"])

        return self._vectors.get(view.detection_id, make)


def _closeness(found: Fit) -> tuple[float, int]:
    return found.matches * max(0.0, found.correlation), found.matches


def _copy_finding(
    best: dict[str, Fit], points: dict[str, int], matches: int, correlation: float, least: int
) -> Finding:
    for form, found in best.items():
        if found.matches >= matches and found.correlation >= correlation:
            turned = ", mirrored" if found.mirrored else ""
            why = f"near copy: the {form}s lie on each other{turned}, {_figures(found)}"
            return Finding("yes", why, 1 + found.correlation)
    said = "; ".join(f"{form}s {_figures(found)}" for form, found in best.items())
    if max(points.values()) < least:
        why = f"no judge: too smooth to compare, {max(points.values())} keypoints"
        return Finding("no judge", why)
    if any(found.matches >= matches for found in best.values()):
        return Finding("unsure", f"in doubt: {said}", 0.5)
    return Finding(
        "no", f"another picture: {said}", max(_closeness(f)[0] for f in best.values()) / 1e3
    )


def _face_finding(distance: float, rules: FaceRules) -> Finding:
    said = f"dlib distance {distance:.2f}"
    if distance <= rules.same:
        return Finding("no", f"same person: {said}, at most {rules.same:g}", distance)
    if distance < rules.different:
        between = f"between {rules.same:g} and {rules.different:g}"
        return Finding("unsure", f"in doubt: {said}, {between}", distance)
    return Finding("yes", f"another person: {said}, {rules.different:g} or more", 1 + distance)


def _figures(found: Fit) -> str:
    return f"{found.matches} matches, correlation {found.correlation:.2f}"


class _Kept(Generic[V]):
    """The last things made, by name."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: OrderedDict[str, V] = OrderedDict()

    def get(self, key: str, make: Callable[[], V]) -> V:
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        made = make()
        self._made[key] = made
        while len(self._made) > self._most:
            self._made.popitem(last=False)
        return made
