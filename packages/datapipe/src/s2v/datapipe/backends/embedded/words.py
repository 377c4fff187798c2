"""The vocabulary of the embedded profile: nouns and their banks, colours, sizes."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from s2v.datapipe.roles import Image, Mask

#: COCO classes that are animals, with the ImageNet classes (index ranges) that confirm them.
CREATURES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "bird": ((7, 24), (80, 100), (127, 146)),
    "cat": ((281, 285),),
    "dog": ((151, 268),),
    "horse": ((339, 339), (603, 603)),
    "sheep": ((348, 350),),
    "cow": ((345, 347),),
    "elephant": ((385, 386),),
    "bear": ((294, 297),),
    "zebra": ((340, 340),),
    "giraffe": (),
}
#: Worn, or part of the room: no subjects of their own.
NEVER_SUBJECTS: Final = frozenset(
    ("tie", "dining table", "bed", "toilet", "sink", "bench", "traffic light", "stop sign",
     "parking meter")
)  # fmt: skip
#: Heads of noun chunks that speak of the picture or of clothes, as lemmas; the parser takes
#: "close-up" for an "up" and "clothes" for a "clothe".
PICTURE_NOUNS: Final = frozenset(
    ("shot", "view", "scene", "background", "foreground", "photograph", "picture", "up",
     "close-up", "colour", "light", "clothe", "clothes", "clothing", "side", "frame", "motion",
     "tone")
)  # fmt: skip
SIZES: Final = ("larger", "smaller")

#: Colour name -> test on hue (0..179), saturation and value (0..255) of OpenCV's HSV.
_HUES: Final = (
    ("red", 0, 7), ("orange", 8, 20), ("yellow", 21, 34), ("green", 35, 84),
    ("blue", 85, 129), ("purple", 130, 154), ("pink", 155, 169), ("red", 170, 179),
)  # fmt: skip
FAMILIES: Final = (("orange", "brown"), ("grey", "white"))
COLOURS: Final = (
    "black", "white", "grey", "brown", *dict.fromkeys(name for name, _, _ in _HUES)
)  # fmt: skip


def colour_shares(image: Image, mask: Mask) -> dict[str, float]:
    """Share of each named colour among the masked pixels, largest first; sums to 1.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        mask: bool ``[H, W]``.
    """
    small = cv2.resize(image, (160, 160), interpolation=cv2.INTER_AREA)
    inside = cv2.resize(mask.astype(np.uint8), (160, 160), interpolation=cv2.INTER_NEAREST) > 0
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)[inside].astype(int)
    if not len(hsv):
        return {}
    hue, sat, val = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    names = np.full(len(hsv), "", dtype=object)
    for name, low, high in _HUES:
        names[(hue >= low) & (hue <= high)] = name
    # Dark orange and dark yellow are what people call brown.
    names[np.isin(names, ("orange", "yellow", "red")) & (val < 150) & (sat > 60)] = "brown"
    # Coloured light tints white fur: cool light up to 75, warm light, as at dusk, up to 58.
    plain = sat < np.where((hue >= 25) & (hue < 155), 75, 58)
    names[plain & (val >= 60)] = "grey"
    names[plain & (val >= 185)] = "white"
    names[val < 45] = "black"
    found, counts = np.unique(names.astype(str), return_counts=True)
    shares = {str(n): round(float(c) / len(hsv), 4) for n, c in zip(found, counts, strict=True)}
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def colour_name(shares: dict[str, float], at_least: float) -> str | None:
    """The colour people would name, or ``None`` when none stands out.

    Brown and orange are one fur in light and shade; where they cover that much they count
    before grey and white, which are also what shadows and highlights turn into.
    """
    warm = shares.get("orange", 0.0) + shares.get("brown", 0.0)
    if warm >= at_least:
        return "orange" if shares.get("orange", 0.0) >= shares.get("brown", 0.0) else "brown"
    top = next(iter(shares), None)
    return top if top is not None and shares[top] >= at_least else None


def family_share(shares: dict[str, float], colour: str) -> float:
    """Share of a colour together with what it turns into in other light."""
    family = next((f for f in FAMILIES if colour in f), (colour,))
    return sum(shares.get(name, 0.0) for name in family)
