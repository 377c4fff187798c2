"""Is it the same person? dlib's ResNet-29, another network and training set than selection's.

Selection compares faces by SFace (or ArcFace); dlib's network (Davis King, CC0) was trained on
other pictures with another loss. The boxes of the faces are those of the run: where a face is, is
not who it is. dlib finds its own five points inside them.
"""

from __future__ import annotations

from collections.abc import Iterable

from s2v.datapipe.base.assets import AssetError
from s2v.datapipe.base.embedded.dlib_faces import DlibFaces
from s2v.datapipe.base.media.boxes import area, centre_inside
from s2v.datapipe.pair.rows import Row


def dlib_or_why_not() -> DlibFaces | str:
    """The judge, loaded, or what it lacks in one sentence."""
    try:
        judge = DlibFaces.from_assets()
        judge.load()
    except ImportError:
        return "dlib is not installed; `pip install 's2v-datapipe[audit]'`"
    except (AssetError, RuntimeError) as error:
        return " ".join(str(error).split())
    return judge


def face_in(faces: Iterable[Row], box: tuple[float, ...]) -> Row | None:
    """The largest face whose middle lies in the box of a person."""
    inside = [face for face in faces if centre_inside(face["box"], box)]
    return min(inside, key=lambda face: (-area(face["box"]), face["face"]), default=None)
