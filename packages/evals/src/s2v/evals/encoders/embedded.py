"""The embedded encoders: small open networks that run for real on a CPU.

Each is imported and made at first use, so a run whose scores are all cached loads none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from s2v.evals.encoders import (
    Face,
    FaceDetector,
    FaceEmbedder,
    Image,
    ImageEmbedder,
    ImageScorer,
    ImageTextEmbedder,
    Mask,
    SubjectSegmenter,
    Vectors,
)
from s2v.evals.encoders.dlib_face import DlibFace

if TYPE_CHECKING:
    from s2v.datapipe.base.embedded.conse import ConSE
    from s2v.datapipe.base.embedded.mobilenet import MobileNetV2
    from s2v.datapipe.base.embedded.niqe import Niqe
    from s2v.datapipe.base.embedded.sface import SFace
    from s2v.datapipe.base.embedded.u2netp import U2NetP
    from s2v.datapipe.base.embedded.yunet import YuNet

SALIENT = 0.5


@lru_cache(maxsize=1)
def revisions() -> dict[str, int]:
    """Asset -> revision of its net's pre- and post-processing: weights do not say it all."""
    from s2v.datapipe.base.embedded.dlib_faces import DlibFaces
    from s2v.datapipe.base.embedded.efficientnet import EfficientNetLite
    from s2v.datapipe.base.embedded.minilm import MiniLM
    from s2v.datapipe.base.embedded.mobilenet import MobileNetV2
    from s2v.datapipe.base.embedded.niqe import Niqe
    from s2v.datapipe.base.embedded.sface import SFace
    from s2v.datapipe.base.embedded.ssd import SsdMobileNet
    from s2v.datapipe.base.embedded.u2netp import U2NetP
    from s2v.datapipe.base.embedded.yunet import YuNet

    nets = (
        DlibFaces, EfficientNetLite, MiniLM, MobileNetV2, Niqe, SFace, SsdMobileNet, U2NetP, YuNet,
    )  # fmt: skip
    return {net.asset_name: net.revision for net in nets}


class YuNetFaces:
    """YuNet behind `FaceDetector`."""

    def __init__(self, net: YuNet) -> None:
        self._net = net
        self.id = net.model_id

    def detect(self, image: Image) -> list[Face]:
        """Faces, largest first."""
        return [
            Face(np.asarray(f.box, np.float32), np.asarray(f.points, np.float32), f.score)
            for f in self._net(image)
        ]


class SFaceFaces:
    """SFace behind `FaceEmbedder`: 128-d, L2-normalised."""

    def __init__(self, net: SFace) -> None:
        self._net = net
        self.id = net.model_id

    def embed(self, image: Image, face: Face) -> Vectors:
        """(128,) of the face aligned by its five points."""
        x0, y0, x1, y1 = (float(v) for v in face.box)
        from s2v.datapipe.base.embedded.yunet import FaceBox

        row: Vectors = self._net.embed(image, [FaceBox((x0, y0, x1, y1), face.points, face.score)])[
            0
        ]
        return row


class MobileNetImages:
    """MobileNetV2 behind `ImageEmbedder`: 1280-d, L2-normalised."""

    def __init__(self, net: MobileNetV2) -> None:
        self._net = net
        self.id = net.model_id

    def embed(self, images: Sequence[Image]) -> Vectors:
        """(N, 1280)."""
        return self._net.embed(images)


class SalientSubject:
    """U2-Net-p behind `SubjectSegmenter`: the largest connected salient region.

    The network stretches its map to the full range, so something nearly always stands out.
    """

    def __init__(self, net: U2NetP) -> None:
        self._net = net
        self.id = net.model_id

    def mask(self, image: Image) -> Mask:
        """(H, W) bool."""
        from s2v.datapipe.base.embedded.u2netp import largest_component

        return largest_component(self._net.saliency(image) >= SALIENT)


class ConseSpace:
    """ConSE behind `ImageTextEmbedder`: 384-d, L2-normalised."""

    def __init__(self, net: ConSE) -> None:
        self._net = net
        self.id = net.model_id

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        """(N, 384)."""
        return self._net.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(N, 384)."""
        return self._net.embed_texts(texts)


class NiqeQuality:
    """NIQE behind `ImageScorer`: 3 to 20 or so, lower is better."""

    def __init__(self, net: Niqe) -> None:
        self._net = net
        self.id = net.model_id

    def score(self, images: Sequence[Image]) -> Vectors:
        """(N,); NaN for pictures of less than two patches of 96 pixels each way."""
        found = [self._net.score(image) for image in images]
        return np.array([np.nan if v is None else v for v in found], np.float32)


class LightEncoders:
    """All encoders of the ``.light`` protocols, each made at first use and shared.

    Raises:
        AssetMissing: at first use, when its weights are not in the asset cache; the message has
            the command that fetches them.
    """

    @cached_property
    def face_detector(self) -> FaceDetector:
        """YuNet."""
        from s2v.datapipe.base.embedded.yunet import YuNet

        return YuNetFaces(YuNet.from_assets())

    @cached_property
    def sface(self) -> FaceEmbedder:
        """SFace, which the embedded curation uses too."""
        from s2v.datapipe.base.embedded.sface import SFace

        return SFaceFaces(SFace.from_assets())

    @cached_property
    def dlib_face(self) -> FaceEmbedder:
        """dlib's ResNet-29, which selection does not use; the audit judges with it too."""
        from s2v.datapipe.base.embedded.dlib_faces import DlibFaces

        return DlibFace(DlibFaces.from_assets())

    @cached_property
    def image(self) -> ImageEmbedder:
        """MobileNetV2."""
        from s2v.datapipe.base.embedded.mobilenet import MobileNetV2

        return MobileNetImages(MobileNetV2.from_assets())

    @cached_property
    def image_text(self) -> ImageTextEmbedder:
        """ConSE over an ImageNet tagger, a COCO detector and MiniLM."""
        from s2v.datapipe.base.embedded.conse import ConSE

        return ConseSpace(ConSE.from_assets())

    @cached_property
    def segmenter(self) -> SubjectSegmenter:
        """U2-Net-p."""
        from s2v.datapipe.base.embedded.u2netp import U2NetP

        return SalientSubject(U2NetP.from_assets())

    @cached_property
    def niqe(self) -> ImageScorer:
        """NIQE."""
        from s2v.datapipe.base.embedded.niqe import Niqe

        return NiqeQuality(Niqe.from_assets())
