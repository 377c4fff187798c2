"""All encoders of a run: the embedded ones, and beside them those of a user's own weights."""

from __future__ import annotations

from functools import cached_property

from s2v.evals.encoders.curricular import CurricularFace
from s2v.evals.encoders.embedded import LightEncoders
from s2v.evals.encoders.face_pack import FacePack
from s2v.evals.encoders.local import Weights


class Encoders(LightEncoders):
    """Each is made at first use and shared by the metrics.

    Args:
        weights: what the user has; by default nothing.

    Raises:
        EvalError: at first use, when its weights are not named, missing or of another digest.
    """

    def __init__(self, weights: Weights | None = None) -> None:
        self.weights = weights or Weights()

    @cached_property
    def buffalo_l(self) -> FacePack:
        """SCRFD-10GF and ArcFace ResNet-50 on WebFace600K."""
        return FacePack(self.weights.path("buffalo_l"))

    @cached_property
    def antelopev2(self) -> FacePack:
        """SCRFD-10GF and ArcFace ResNet-100 on Glint360K."""
        return FacePack(self.weights.path("antelopev2"))

    @cached_property
    def ir101(self) -> CurricularFace:
        """CurricularFace."""
        return CurricularFace(self.weights.path("ir101"))
