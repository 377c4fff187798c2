"""Where a person's clothes are, so that their colour is not that of the door or the face.

A person's box holds a face, hair, hands and whatever stands beside the shoulders. Clothes are what
is left of the person's own pixels below the chin.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from s2v.datapipe.roles import Box, Mask

NECK: Final = 0.15  # of the face's height, left out below the chin
MIN_COVER: Final = 0.15  # of the body's part of the box, for an outline to be the person's
SHOULDERS: Final = 1.0  # face widths to either side, where no outline says where the body ends


def clothes_mask(salient: Mask, box: Box, face: Box | None) -> Mask:
    """Mark the pixels that show a person's clothes.

    Args:
        salient: bool ``[H, W]``, what stands out in the frame; may show other things, or nothing
            of this person, whose body is then taken to be as wide as the shoulders.
        box: of the person, xyxy pixels.
        face: of the same person, xyxy pixels, or ``None`` where none was found.

    Returns:
        Bool ``[H, W]``, empty where the frame ends above the clothes.
    """
    height, width = salient.shape
    left, right = max(0, int(box[0])), min(width, int(np.ceil(box[2])))
    top, bottom = max(0, int(box[1])), min(height, int(np.ceil(box[3])))
    if face is None:
        top += int(0.45 * (bottom - top))
        middle, reach = (left + right) / 2, (right - left) / 4
    else:
        top = min(bottom, max(top, int(face[3] + NECK * (face[3] - face[1]))))
        middle, reach = (face[0] + face[2]) / 2, (0.5 + SHOULDERS) * (face[2] - face[0])
    body = np.zeros((height, width), dtype=np.bool_)
    body[top:bottom, left:right] = True
    worn = body & salient
    if worn.sum() >= MIN_COVER * max(int(body.sum()), 1):
        return worn
    body[:, : max(left, int(middle - reach))] = False
    body[:, min(right, int(middle + reach)) :] = False
    return body
