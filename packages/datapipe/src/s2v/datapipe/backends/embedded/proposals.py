"""What stands in a frame, by two nets that must agree, and where.

A COCO detector and a salient-object net look at the frame; a tagger and a face detector
look at what they found. None of them knows cartoon rabbits, so no single answer is
believed: a person needs a face that is clearly a human one; a creature needs the detector
or an animal's face, and the tagger, beside the salient region; a thing needs a sure
detector. What stays unclear is no subject, so people seen from behind are lost.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from s2v.datapipe.backends.embedded.clothes import clothes_mask
from s2v.datapipe.backends.embedded.words import CREATURES, NEVER_SUBJECTS, colour_shares
from s2v.datapipe.base.embedded.efficientnet import EfficientNetLite
from s2v.datapipe.base.embedded.ssd import Detection, SsdMobileNet
from s2v.datapipe.base.embedded.u2netp import U2NetP
from s2v.datapipe.base.embedded.yunet import FaceBox, YuNet
from s2v.datapipe.base.media import masks
from s2v.datapipe.base.media.boxes import area, centre_inside, iou
from s2v.datapipe.roles import Box, Image, Mask

# Measured on 79 frames of an animated film and 41 of photographs and live clips:
# human faces score 0.92 and more, animal and cartoon faces 0.89 and less.
HUMAN_FACE = 0.91
SMALL_FACE, HUMAN_SMALL_FACE = (
    48,
    0.84,
)  # pixels high; small faces score lower, cartoons' were large
LIVING_SCORE = 0.5  # of the detector, for a person or an animal
THING_SCORE = 0.9
SALIENT_THING_SCORE = 0.75  # where the thing is also what stands out
ANIMAL_TAG = 0.1  # share of animal classes that a creature needs
NOT_ANIMAL_TAG = 0.3  # and that a thing must not reach
NAME_SCORE, NAME_TAG = 0.8, 0.5  # detector and tagger must both be sure to name an animal
SMALLEST = 0.02  # share of the frame
CROWD_SCORE = 0.15  # of the detector, to see that a region holds several
PROPOSAL_SIDE = 224  # half the cost of 320; boxes need no finer map
REMEMBERED = 256  # frames; a proposal is a few numbers


class AnyFace(YuNet):
    """YuNet with a low threshold: it also answers to the faces of animals and cartoons."""

    min_score = 0.6


@dataclass(frozen=True)
class Proposal:
    """One thing in a frame.

    ``bank`` is person, creature, thing, or ``group`` when it holds several living beings.
    ``label`` is a noun, or empty where no net is sure of one. ``score`` in 0..1.
    """

    bank: str
    label: str
    box: Box
    score: float
    colours: dict[str, float]
    area_share: float


class Proposer:
    """Finds proposals; remembers the last few frames, as several roles ask for the same one."""

    def __init__(self) -> None:
        self.ssd = SsdMobileNet.from_assets()
        self.salient = U2NetP.from_assets(side=PROPOSAL_SIDE)
        self.tagger = EfficientNetLite.from_assets()
        self.faces = AnyFace.from_assets()
        self._memory: OrderedDict[str, list[Proposal]] = OrderedDict()

    @property
    def model_id(self) -> str:
        """Ids of the four nets and the version of the rules that join them."""
        nets = (self.ssd, self.salient, self.tagger, self.faces)
        return "+".join(["proposals-5", *(net.model_id for net in nets)])

    def load(self) -> None:
        """Load all nets."""
        for net in (self.ssd, self.salient, self.tagger, self.faces):
            net.load()

    def propose(self, image: Image) -> list[Proposal]:
        """All proposals of a frame, largest first.

        Args:
            image: RGB uint8 ``[H, W, 3]``.
        """
        key = hashlib.sha256(image.tobytes()).hexdigest()
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        found = self._propose(image)
        self._memory[key] = found
        if len(self._memory) > REMEMBERED:
            self._memory.popitem(last=False)
        return found

    def _propose(self, image: Image) -> list[Proposal]:
        objects = self.ssd.detect(image, CROWD_SCORE)
        faces = self.faces(image)
        salient = np.asarray(self.salient.saliency(image) > 0.5, dtype=np.bool_)
        people = self._people(image, objects, faces, salient)
        found = list(people)
        for box, mask in self._salient_regions(salient):
            if all(iou(box, p.box) < 0.3 and not _mostly_inside(p.box, box) for p in people):
                proposal = self._region(image, box, mask, objects, faces)
                if proposal:
                    found.append(proposal)
        found += self._things(image, objects, found)
        return sorted(found, key=lambda p: (-p.area_share, p.box))

    def _people(
        self, image: Image, objects: list[Detection], faces: list[FaceBox], salient: Mask
    ) -> list[Proposal]:
        people: list[Proposal] = []
        for hit in objects:
            if hit.label != "person" or hit.score < LIVING_SCORE:
                continue
            if any(iou(hit.box, other.box) > 0.6 for other in people):
                continue
            own = [f.box for f in faces if _human(f) and centre_inside(f.box, hit.box)]
            if own:
                # Clothes, not the face or the surroundings, tell people apart.
                worn = clothes_mask(salient, hit.box, max(own, key=lambda b: (area(b), b)))
                people.append(self._proposal(image, "person", "person", hit.box, hit.score, worn))
        return people

    def _salient_regions(self, mask: Mask) -> list[tuple[Box, Mask]]:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        regions: list[tuple[Box, Mask]] = []
        for n in range(1, count):
            x, y, width, height, area = (int(v) for v in stats[n])
            if area >= SMALLEST * mask.size:
                box = (float(x), float(y), float(x + width), float(y + height))
                regions.append((box, np.asarray(labels == n, dtype=np.bool_)))
        return regions

    def _region(
        self, image: Image, box: Box, mask: Mask, objects: list[Detection], faces: list[FaceBox]
    ) -> Proposal | None:
        probabilities = self.tagger.probabilities(_crop(image, box))
        animal = float(probabilities[:398].sum() / max(float(probabilities.sum()), 1e-6))
        living = [
            hit
            for hit in objects
            if _living(hit.label) and hit.score >= LIVING_SCORE and iou(hit.box, box) >= 0.5
        ]
        things = [
            hit for hit in objects if not _living(hit.label) and hit.score >= SALIENT_THING_SCORE
        ]
        thing = max(
            (h for h in things if iou(h.box, box) >= 0.6), key=lambda h: h.score, default=None
        )
        if thing and animal < NOT_ANIMAL_TAG and thing.label not in NEVER_SUBJECTS:
            return self._proposal(image, "thing", thing.label, box, thing.score, mask)
        face = any(centre_inside(f.box, box) and not _human(f) for f in faces)
        if (face or living) and animal >= ANIMAL_TAG:
            if _several(objects, box) or masks.parts(mask) > 1:
                return self._proposal(image, "group", "", box, 0.5, mask)
            score = max([hit.score for hit in living], default=0.6)
            label = _animal_name(living, probabilities)
            return self._proposal(image, "creature", label, box, score, mask)
        return None

    def _things(
        self, image: Image, objects: list[Detection], found: list[Proposal]
    ) -> list[Proposal]:
        things: list[Proposal] = []
        for hit in objects:
            if _living(hit.label) or hit.label in NEVER_SUBJECTS or hit.score < THING_SCORE:
                continue
            if any(iou(hit.box, p.box) > 0.4 for p in [*found, *things]):
                continue
            # A "thing" inside a creature is most often a part of it.
            if any(p.bank != "thing" and _mostly_inside(hit.box, p.box) for p in found):
                continue
            if self.tagger.creature_probability(_crop(image, hit.box)) < ANIMAL_TAG:
                things.append(self._proposal(image, "thing", hit.label, hit.box, hit.score, None))
        return things

    def _proposal(
        self, image: Image, bank: str, label: str, box: Box, score: float, mask: Mask | None
    ) -> Proposal:
        height, width = image.shape[:2]
        x0, y0, x1, y1 = (
            max(0.0, box[0]),
            max(0.0, box[1]),
            min(width, box[2]),
            min(height, box[3]),
        )
        if mask is None:
            mask = np.zeros((height, width), dtype=np.bool_)  # no outline, no colour
        share = (x1 - x0) * (y1 - y0) / (width * height)
        return Proposal(
            bank,
            label,
            (x0, y0, x1, y1),
            round(score, 4),
            colour_shares(image, mask),
            round(share, 4),
        )


def _living(label: str) -> bool:
    return label in CREATURES or label in {"person", "teddy bear"}


def _human(face: FaceBox) -> bool:
    small = face.box[3] - face.box[1] < SMALL_FACE
    return face.score >= (HUMAN_SMALL_FACE if small else HUMAN_FACE)


def _crop(image: Image, box: Box) -> Image:
    height, width = image.shape[:2]
    x0, y0 = max(0, int(box[0])), max(0, int(box[1]))
    x1, y1 = min(width, max(x0 + 1, int(box[2]))), min(height, max(y0 + 1, int(box[3])))
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def _mostly_inside(inner: Box, outer: Box) -> bool:
    width = max(0.0, min(inner[2], outer[2]) - max(inner[0], outer[0]))
    height = max(0.0, min(inner[3], outer[3]) - max(inner[1], outer[1]))
    area = (inner[2] - inner[0]) * (inner[3] - inner[1])
    return width * height > 0.7 * max(area, 1.0)


def _several(objects: list[Detection], box: Box) -> bool:
    """Whether a region holds two or more living beings that do not overlap."""
    apart: list[Box] = []
    whole = (box[2] - box[0]) * (box[3] - box[1])
    for hit in objects:
        if not _living(hit.label):
            continue
        area = (hit.box[2] - hit.box[0]) * (hit.box[3] - hit.box[1])
        if not 0.1 * whole <= area <= 0.7 * whole or not _mostly_inside(hit.box, box):
            continue
        if all(iou(hit.box, other) < 0.2 for other in apart):
            apart.append(hit.box)
    return len(apart) > 1


def _animal_name(living: list[Detection], probabilities: np.ndarray) -> str:
    """The detector's class where it is sure and the tagger confirms it, else ``animal``."""
    for hit in living:
        ranges = CREATURES.get(hit.label, ())
        confirmed = sum(float(probabilities[a : b + 1].sum()) for a, b in ranges)
        if hit.score >= NAME_SCORE and confirmed >= NAME_TAG:
            return hit.label
    return "animal"
