"""The shell of the audit's pages: one file each, no address outside it, scripts by their hash."""

from __future__ import annotations

from s2v.datapipe.audit.judges import Judges
from s2v.datapipe.audit.pairs import Side, View
from s2v.datapipe.base import pages
from s2v.datapipe.base.markup import Content, Markup, element, join
from s2v.datapipe.base.media.boxes import crop
from s2v.datapipe.report import media
from s2v.datapipe.report.sections import Media, picture
from s2v.datapipe.report.wording import moment

CARDS = 400  # shown on a page; a card has some 40 kB of pictures
FRAME = (340, 210)  # pixels of a thumbnail, at most
CROP = (180, 210)
MARGIN = 0.1  # of the box, around a crop


def document(title: str, *body: Content, script: str | None = None) -> str:
    """A whole page.

    Args:
        title: of the page.
        body: its elements.
        script: name of a script of this package, or none.
    """
    return pages.document(
        title,
        *body,
        style=pages.asset(__package__, "audit.css"),
        script=pages.asset(__package__, script) if script else None,
    )


def side_by_side(judges: Judges, target: Side, reference: Side) -> Markup:
    """Both subjects: the frame with the box, and the crop."""
    return element(
        "div",
        _side(judges, "Target", target, _best(target)),
        _side(judges, "Reference", reference, reference.views[0]),
        class_="pair",
    )


def _best(side: Side) -> View:
    """The view selection chose as the subject's best."""
    wanted = side.subject["detection_id"]
    return next((view for view in side.views if view.detection_id == wanted), side.views[0])


def _side(judges: Judges, role: str, side: Side, view: View) -> Markup:
    image = judges.image(view)
    subject, frame = side.subject, view.frame
    at = "" if subject["kind"] == "image" else f", {moment(frame['pts_us'])}"
    where = f"{subject['video_id']}{at}"
    cut = media.thumbnail(crop(image, view.box, MARGIN)[0], *CROP)
    whole = media.thumbnail(image, *FRAME)
    box = media.box_overlay(view.box, frame["width"], frame["height"])
    said = f"{role}: {subject['phrase']}"
    return element(
        "div",
        element("h3", role, " ", element("span", where, class_="small")),
        element(
            "div",
            picture(Media(cut, alt=f"{said}, cut out")),
            picture(Media(whole, alt=f"{said}, in its frame"), box),
            class_="media",
        ),
        element("p", "“", subject["phrase"], "”", class_="phrase"),
        class_="side",
    )


def notice(*content: Content) -> Markup:
    """A paragraph that is not to be missed."""
    return element("p", join(*content), class_="notice")
